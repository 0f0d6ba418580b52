# An image with magic and an engine as its main process.
#
#   docker build -t magic .
#   docker build -t magic-cuda --build-arg BASE=nvidia/cuda:12.6.3-runtime-ubuntu24.04 .
#   docker run --init -v magic-state:/state -v magic-runs:/runs magic
#
# BASE needs apt. TORCH_INDEX names the package index of another build of torch, such as one for a CPU
# alone; without it the default build is installed, which contains CUDA on Linux.

ARG BASE=debian:trixie-slim
FROM ${BASE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 magic \
    && install -d -o magic -g magic -m 0700 /state /runs /app
USER magic
WORKDIR /app

RUN python3 -m venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH

ARG TORCH_INDEX=
COPY --chown=magic:magic constraints.txt pyproject.toml README.md LICENSE ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r torch.txt

COPY --chown=magic:magic engine engine
COPY --chown=magic:magic magic_tui magic_tui
COPY --chown=magic:magic sample_configs sample_configs
RUN pip install --no-cache-dir -c constraints.txt .

ENV MAGIC_STATE_DIR=/state MAGIC_RUNS=/runs
VOLUME ["/state", "/runs"]
CMD ["magic-engine"]
