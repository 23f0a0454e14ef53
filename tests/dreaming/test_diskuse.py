"""What a night is said to take of the disk at most, and what it takes."""

from dreaming.diskuse import most_bytes, stated
from envs import registry


def size(folder, *patterns):
    return sum(file.stat().st_size for pattern in patterns for file in folder.glob(pattern))


def test_a_night_takes_no_more_than_was_said(small_night):
    from dreaming.run import RunFolder

    path, config = small_night.path, RunFolder(small_night.path).config()
    most = most_bytes(config, registry.schema(config.task), small_night.seconds / 3600, 2, new_logs=True)
    takes = {
        "checkpoints": size(path, "checkpoints/*"),
        "logs": size(path, "episodes/*"),
        "metrics": size(path, "metrics.jsonl", "progress.json", "survival.json"),
        "audit": size(path, "audit/*"),
        "report": size(path, "report/**/*.*"),
    }
    assert most.keys() == takes.keys()
    for kind, bytes_ in takes.items():
        assert 0 < bytes_ <= most[kind], f"{kind}: {bytes_} of {most[kind]}"
    # Of checkpoints a short night has fewer than are kept of a long one.
    assert most["checkpoints"] < 8 * takes["checkpoints"]


def test_the_sentence_says_whether_there_is_room(tmp_path):
    text, fits = stated({"checkpoints": 3_200_000_000, "logs": 0, "report": 14_000_000}, tmp_path / "not" / "yet")
    assert text.startswith("It takes at most 3.2 GB of the disk (checkpoints 3.2 GB, report 14 MB;")
    assert not stated({"checkpoints": 10**18}, tmp_path)[1] and stated({"checkpoints": 1}, tmp_path)[1]
