# Two images from one file: `api` serves and migrates and holds no torch; `worker` adds what reads,
# trains and measures. For a GPU build `worker` with
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130

FROM python:3.11-slim AS api-packages
RUN python -m venv --without-pip /opt/lethe
COPY requirements/api.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/lethe/bin/python install \
    --no-deps --require-hashes -r /build/api.txt

FROM api-packages AS worker-packages
COPY requirements/worker.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/lethe/bin/python install \
    --no-deps --require-hashes -r /build/worker.txt
# The lock above holds all that the CPU build requires, so only a CUDA index adds packages here:
# its own libraries. No other index is asked, since PyPI's build is one for CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/lethe/bin/python install \
    --retries 1 --index-url "$TORCH_INDEX" torch==2.13.0

# Our own code alone, so that a change of it makes a small layer.
FROM python:3.11-slim AS code
WORKDIR /build
COPY requirements/worker.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/lethe \
    && sed -n '/^setuptools==/,/[^\\]$/p' worker.txt >backend.txt \
    && python -m pip --python /opt/lethe/bin/python install \
    --no-deps --require-hashes --target /build/backend -r backend.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY workers workers
COPY lethe lethe
COPY migrations migrations
RUN PYTHONPATH=/build/backend python -m pip --python /opt/lethe/bin/python install \
    --no-deps --no-build-isolation --no-cache-dir .

FROM python:3.11-slim AS runtime
# A fixed uid, so that volumes and bind mounts can be given to it.
RUN groupadd --gid 10001 lethe \
    && useradd --uid 10001 --gid lethe --no-create-home --home-dir /var/lib/lethe \
    --shell /usr/sbin/nologin lethe \
    && install -d -m 0750 -o lethe -g lethe /var/lib/lethe /var/lib/lethe/artifacts \
    /var/lib/lethe/keys /var/lib/lethe/tree-heads /data
ENV PATH=/opt/lethe/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LETHE_VAR=/var/lib/lethe \
    LETHE_ARTIFACTS_URL=file:///var/lib/lethe/artifacts \
    LETHE_SIGNING_KEYS=/var/lib/lethe/keys \
    LETHE_TREE_HEAD_EXPORT=/var/lib/lethe/tree-heads
WORKDIR /var/lib/lethe
# By number: an orchestrator that refuses root cannot look names up.
USER 10001:10001

FROM runtime AS worker
COPY --from=worker-packages /opt/lethe /opt/lethe
COPY --from=code /opt/lethe /opt/lethe
CMD ["lethe", "worker", "compute"]

FROM runtime AS api
COPY --from=api-packages /opt/lethe /opt/lethe
COPY --from=code /opt/lethe /opt/lethe
ENV LETHE_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=3); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["lethe", "serve"]
