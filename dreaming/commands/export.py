"""`export-policy` at work: a run's policy as an ONNX file, and how to call it."""

from configs import UserError, suggest
from dreaming.cli import Export
from dreaming.export import COMMAND, OBSERVATION, export
from dreaming.run import OF_RUNS, ONNX, RunFolder
from worldmodel.console import Screen


def export_policy(options: Export) -> None:
    if options.policy not in OF_RUNS:
        raise UserError(f"--policy: {suggest(options.policy, list(OF_RUNS))}")
    run = RunFolder(options.run)
    path = options.out or run.path / ONNX
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; give the name of the file")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: the folder {path.parent} does not exist")
    with Screen("exporting the policy") as screen:
        state, meta = run.policy(OF_RUNS[options.policy])
        agent = run.agent(state, meta)
        made = export(agent, meta, path, {"policy": meta["policy"], "run": str(run.path)})
        screen.complete()
        say, action = screen.say, meta["action"]
        names = meta["observation_names"] or [f"channel {i}" for i in range(agent.model.spaces.vector)]
        commands = action.get("names") or [f"command {i}" for i in range(agent.model.spaces.action)]
        say(f"  {made.path}    {meta['policy']}, {made.bytes / 1000:,.0f} kB")
        say(f"onnxruntime's commands differ from the policy's by {made.difference:.0e} of their range at most.")
        say(f"{OBSERVATION}, float32 of shape (1, {len(names)}): {', '.join(names)}")
        say(f"{COMMAND}, (1, {len(commands)}): {', '.join(commands)}")
        say(f"Both are as {run.logs(run.config())} has them: what a mapping turned, scaled or split, the robot has to.")
        say("Where a sample is missing or absurd, give the last good one; send no command that is not finite.")
        say(f"On the robot, {meta['control_hz']:g} times a second:")
        say(f'  session = onnxruntime.InferenceSession("{path.name}")')
        say(f'  [command] = session.run(["{COMMAND}"], {{"{OBSERVATION}": observation}})')
