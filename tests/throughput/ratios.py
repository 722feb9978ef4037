"""Prints the JSON of ``make bench``: images a second, absolute and as a multiple of the yardstick's."""

import json
import sys
from pathlib import Path

import pandas as pd

benchmarks = json.loads(Path(sys.argv[1]).read_text())["benchmarks"]
speeds = pd.DataFrame([one["extra_info"] for one in benchmarks if one["extra_info"]])
ordinary = speeds[speeds["way"] == "yardstick"].set_index("pair")["images_per_second"]
speeds["times"] = speeds["images_per_second"] / speeds["pair"].map(ordinary)
speeds["shown"] = [f"{speed:,.0f} ({times:.2f}×)" for speed, times in speeds[["images_per_second", "times"]].values]
table = speeds.pivot(index=["pair", "precision"], columns="way", values="shown").reset_index()
order = ["pair", "precision", "yardstick", "live", "remembered", "ce"]
print("Images a second (and as a multiple of the yardstick's):\n")
print(table.reindex(columns=order).astype(object).fillna("–").to_markdown(index=False, disable_numparse=True))
print()
for one in benchmarks:
    if not one["extra_info"]:
        print(f"{one['name'].removeprefix('test_').replace('_', ' ')}: {one['stats']['median']:.2f} s")
