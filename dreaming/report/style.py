"""The page's only style sheet. Charts take their colours from the same variables, light and dark."""

CSS = """
:root { color-scheme: light dark;
  --page: #fafaf8; --card: #ffffff; --ink: #1b1d21; --soft: #5c626d; --rule: #e3e3de; --tint: #e6eff8; --code: #f1f1ed;
  --after: #0b68b0; --before: #cf5f0a; --demonstrator: #7d838e; --dream: #6a4bc7; --persistence: #7d838e;
  --sensitivity: #14804f; --good: #14804f; --bad: #b3261e; --warn-page: #fff4e0; --warn-rule: #e0a030;
  --c0: #0b68b0; --c1: #cf5f0a; --c2: #14804f; --c3: #6a4bc7;
  --c4: #b3261e; --c5: #8a6d00; --c6: #0f7d8c; --c7: #a8447f;
  --inbar: #ffffff; }
@media (prefers-color-scheme: dark) { :root {
  --page: #15171b; --card: #1c1f24; --ink: #e8eaee; --soft: #a2a8b4; --rule: #31353d; --tint: #212d3d; --code: #272b32;
  --after: #5cb3f5; --before: #f59a4a; --demonstrator: #9298a4; --dream: #b09cff; --persistence: #9298a4;
  --sensitivity: #4cc38a; --good: #4cc38a; --bad: #ff8a80; --warn-page: #33291a; --warn-rule: #b98325;
  --c0: #5cb3f5; --c1: #f59a4a; --c2: #4cc38a; --c3: #b09cff;
  --c4: #ff8a80; --c5: #d8bd45; --c6: #5fd0dd; --c7: #ee8cc5;
  --inbar: #15171b; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header > div, footer > div { max-width: 860px; margin: 0 auto; padding: 0 24px; }
header { padding: 36px 0 8px; }
.eyebrow { color: var(--soft); font-size: 14px; margin: 0 0 14px; }
h1 { font-size: 28px; line-height: 1.28; letter-spacing: -0.012em; margin: 0 0 14px; font-weight: 680;
  text-wrap: balance; }
h2 { font-size: 21px; letter-spacing: -0.008em; margin: 0 0 6px; }
h3 { font-size: 16px; margin: 26px 0 4px; }
p { margin: 0 0 12px; max-width: 72ch; text-wrap: pretty; }
.lede { font-size: 17px; color: var(--soft); }
.muted { color: var(--soft); font-size: 14px; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 18px 0 4px; font-size: 14px; }
a { color: var(--after); text-decoration: none; } a:hover { text-decoration: underline; }
section { border-top: 1px solid var(--rule); padding: 30px 0 26px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 12px; margin: 20px 0 8px; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 13px 15px 12px; }
.tile b { display: block; font-size: 20px; white-space: nowrap; line-height: 1.25; font-weight: 660;
  letter-spacing: -0.015em; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 13px; color: var(--soft); line-height: 1.4; }
.tile .name { color: var(--ink); font-weight: 600; margin-bottom: 3px; }
.banner { background: var(--warn-page); border: 1px solid var(--warn-rule); border-radius: 10px; padding: 12px 16px;
  margin: 0 0 18px; font-weight: 600; }
.banner span { display: block; font-weight: 400; font-size: 15px; }
.scroll { overflow-x: auto; margin: 10px 0 14px; }
table { border-collapse: collapse; font-size: 14px; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); vertical-align: bottom; line-height: 1.3; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--rule); }
td { vertical-align: top; } tr:last-child td { border-bottom: 0; }
th.r, td.r { text-align: right; padding: 7px 0 7px 14px; white-space: nowrap; }
th.r { white-space: normal; } td:first-child { min-width: 104px; }
td small { color: var(--soft); font-size: 12.5px; }
td svg { margin: -2px 0 -6px auto; }
tr.outside td:first-child { box-shadow: inset 3px 0 0 var(--after); padding-left: 10px; }
details { margin: 8px 0 14px; } summary { cursor: pointer; color: var(--after); font-size: 15px; }
figure { margin: 16px 0 22px; } figcaption { font-size: 14px; color: var(--soft); margin-top: 6px; }
video { width: 100%; max-width: 680px; height: auto; border-radius: 8px; display: block; background: #16181d; }
code { font: 13.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--code); border-radius: 8px; padding: 10px 14px; overflow-x: auto; margin: 4px 0 6px; }
ul { padding-left: 20px; margin: 6px 0 12px; } li { margin: 3px 0; }
svg { display: block; max-width: 100%; height: auto; }
.chart { margin: 14px 0 6px; } .narrow { display: none; }
.grid-charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 14px 20px;
  margin: 12px 0; }
.grid-charts svg { width: 100%; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 8px 0; font-size: 14px; }
.legend li { display: flex; align-items: center; gap: 7px; margin: 0; }
.swatch { display: inline-block; width: 22px; height: 12px; background: var(--tint); border-radius: 2px;
  vertical-align: -1px; }
footer { border-top: 1px solid var(--rule); color: var(--soft); font-size: 14px; padding: 22px 0 50px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
svg text { fill: var(--ink); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg .tick, svg .axis { fill: var(--soft); font-size: 12px; } svg .axis { font-size: 12.5px; }
svg .label { font-size: 13px; } svg .group { font-weight: 640; font-size: 14px; }
svg .name { font-weight: 600; font-size: 12.5px; }
svg .inbar { fill: var(--inbar); font-weight: 600; font-size: 12.5px; }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .outside { fill: var(--tint); }
svg .line { fill: none; stroke: var(--k); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
svg .point { fill: var(--k); } svg .mark { fill: var(--page); stroke: var(--k); stroke-width: 2.4; }
svg .fill { fill: var(--k); } svg text.name { fill: var(--k); }
svg .dot line { stroke: var(--k); stroke-width: 2; stroke-linecap: round; opacity: .55; }
svg .dot circle, svg .dot path { fill: var(--k); stroke: none; }
svg .dot circle.hollow { fill: var(--page); stroke: var(--k); stroke-width: 2.2; }
svg .line.persistence { stroke-dasharray: 6 5; } svg .line.sensitivity { stroke-dasharray: 1.5 5; stroke-width: 2.6; }
.after { --k: var(--after); } .before { --k: var(--before); } .demonstrator { --k: var(--demonstrator); }
.zero_step { --k: var(--dream); }
.dream { --k: var(--dream); } .persistence { --k: var(--persistence); } .sensitivity { --k: var(--sensitivity); }
.c0 { --k: var(--c0); } .c1 { --k: var(--c1); } .c2 { --k: var(--c2); } .c3 { --k: var(--c3); }
.c4 { --k: var(--c4); } .c5 { --k: var(--c5); } .c6 { --k: var(--c6); } .c7 { --k: var(--c7); }
@media (max-width: 640px) {
  main, header > div, footer > div { padding: 0 16px; } header { padding-top: 24px; }
  h1 { font-size: 23px; } .lede { font-size: 16px; } .wide { display: none; } .narrow { display: block; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; } .tile b { font-size: 19px; } .tile { padding: 10px 12px; }
  table { font-size: 13px; } td small { display: block; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; } }
@media print { nav { display: none; } section { break-inside: avoid; } body { background: #fff; } }
"""
