"""One measurement in a process of its own, with whichever checkout PYTHONPATH names.

python work.py encode MODEL CODES ROWS.npy     seconds of encoding the rows like those of CODES
python work.py train ROWS.npy LATENTS NONZEROS STEPS     seconds of a training step
"""

import sys
import time

import numpy as np


def encode(model_path: str, codes_path: str, rows_path: str) -> float:
    from compressae import CompresSAE, compress
    from compressae.retrieval import load_codes

    model, codes, rows = CompresSAE.load(model_path), load_codes(codes_path), np.load(rows_path)
    compress(model, rows[: len(rows) // 4], like=codes)  # Compile, and fill caches.
    start = time.process_time()
    compress(model, rows, like=codes)
    return time.process_time() - start


def train(rows_path: str, latents: str, nonzeros: str, steps: str) -> float:
    from compressae import TrainConfig
    from compressae.retrieval.io.embeddings import as_embeddings
    from compressae.training.pursuit import PursuitRun

    config = TrainConfig(int(latents), int(nonzeros), steps=int(steps) + 8, whitening=0.4)
    run = PursuitRun(as_embeddings(np.load(rows_path)), config)
    for _ in range(8):  # After an epoch every row has a code.
        run.advance()
    start = time.process_time()
    for _ in range(int(steps)):
        run.advance()
    return (time.process_time() - start) / int(steps)


if __name__ == "__main__":
    print({"encode": encode, "train": train}[sys.argv[1]](*sys.argv[2:]))
