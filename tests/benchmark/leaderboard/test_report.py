from dataclasses import dataclass

from kdbench.benchmark.leaderboard.report import plain, spread


@dataclass
class Gain:
    mean: float
    half: float


def test_what_people_read_is_rounded_once() -> None:
    """0.40496 is 0.40, although 0.4050 would be 0.41."""
    gain = Gain(3.86, 0.40496)
    row = plain(gain)
    assert spread(row["mean"], row["half"], "+") == spread(gain.mean, gain.half, "+") == "+3.86 ± 0.40"
