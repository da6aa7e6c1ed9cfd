# The HTTP service of one catalogue: `compressae serve`.
#
#   docker build -t compressae .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/index:/catalogue:ro" compressae --cache 100000
#
# Arguments after the image's name go to `compressae serve`. The service has no passwords and no
# encryption; publish its port beyond your machine only behind something that has. Searches with
# where= need the extra sql, too: --build-arg EXTRAS=serve,sql.
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./

# torch by itself, from the index of its CPU builds: those of PyPI bring several GB of CUDA.
RUN pip install --no-deps -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch

COPY compressae compressae
ARG EXTRAS=serve
RUN pip install -c constraints.txt ".[${EXTRAS}]"

# numba caches compiled kernels here, whichever user the container runs as.
ENV NUMBA_CACHE_DIR=/tmp/numba
RUN useradd --create-home compressae
USER compressae
WORKDIR /home/compressae

EXPOSE 8000
HEALTHCHECK --start-period=120s --interval=30s --timeout=10s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=9)"]
ENTRYPOINT ["compressae", "serve", "/catalogue", "--host", "0.0.0.0"]
