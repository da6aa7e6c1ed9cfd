"""Small files of Criteo's and Avazu's form."""

import recommender_data  # noqa: F401 - Puts scripts/ on the path.
from clicks.readers import AVAZU_COLUMNS

N = 70


def criteo_line(i):
    """Counts i, −1, and empty; values of which the first differs in each line."""
    counts = [str(i), "-1", "", *["3"] * 10]
    values = [f"{i:08x}", "" if i % 2 else "0000beef", *[f"{i % 7:08x}"] * 24]
    return "\t".join([str(i % 3 == 0).replace("True", "1").replace("False", "0"), *counts, *values])


def avazu_line(i):
    """14 October 2014 was a Tuesday."""
    values = [f"{1e18 + i:.0f}", str(int(i % 4 == 0)), f"141014{i % 24:02d}", "1005", "0"]
    return ",".join([*values, *[f"v{i % 5}"] * (len(AVAZU_COLUMNS) - len(values))])


CRITEO_TEXT = "".join(criteo_line(i) + "\n" for i in range(N))
AVAZU_TEXT = ",".join(AVAZU_COLUMNS) + "\n" + "".join(avazu_line(i) + "\n" for i in range(N))
