# Images of the service: `docker build --target api|engine|engine-gpu|dashboard|loadtest .`
# Build secrets, both optional: `pip_conf` (a pip.conf: mirror, credentials, ...) and `ca` (certificates, which that
# pip.conf may name as /etc/pip-ca.pem). Neither ends up in a layer.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN groupadd --gid 10001 recsys \
 && useradd --uid 10001 --gid recsys --no-create-home --home-dir /tmp --shell /usr/sbin/nologin recsys \
 && install -d -o recsys -g recsys /data /cache
WORKDIR /data

# The project itself, once for all images.
FROM base AS wheel
RUN python -m venv /venv
WORKDIR /src
COPY . .
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/pip-ca.pem \
    --mount=type=cache,target=/root/.cache/pip \
    pip wheel --quiet --no-deps --wheel-dir /wheel .

# Dependencies see pyproject.toml alone, so that a change of the source does not install them again.
FROM base AS dependencies
RUN python -m venv /venv
WORKDIR /src
COPY pyproject.toml README.md ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/pip-ca.pem \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet .

FROM dependencies AS engine-dependencies
# Empty = torch from the default index, which on Linux is the CUDA build.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG ENGINE_EXTRAS=engine,fast
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/pip-ca.pem \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} ".[${ENGINE_EXTRAS}]"

# Kernels for CPUs: a compiler is needed to make them, not to run them.
FROM engine-dependencies AS cpu-kernels
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --quiet --no-cache-dir --no-index --no-deps --force-reinstall /wheel/*.whl \
 && mkdir /kernels \
 && cp "$(python -c 'from kernels.cpu.library import build; print(build())')" /kernels/

FROM dependencies AS dashboard-dependencies
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/pip-ca.pem \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet '.[dashboard]'

FROM dependencies AS loadtest-dependencies
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/pip-ca.pem \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet '.[loadtest]'

# API and worker: no torch.
FROM base AS api
COPY --from=dependencies /venv /venv
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --quiet --no-cache-dir --no-index --no-deps --force-reinstall /wheel/*.whl
USER 10001:10001
EXPOSE 8000
CMD ["recsys", "serve", "api"]

FROM base AS engine
COPY --from=engine-dependencies /venv /venv
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    --mount=type=bind,from=cpu-kernels,source=/kernels,target=/kernels \
    pip install --quiet --no-cache-dir --no-index --no-deps --force-reinstall /wheel/*.whl \
 && cp /kernels/*.so "$(python -c 'from importlib.util import find_spec as f; print(*f("kernels.cpu").submodule_search_locations)')/__pycache__/"
ENV OMP_WAIT_POLICY=PASSIVE
USER 10001:10001
EXPOSE 5555
CMD ["recsys", "serve", "engine"]

# Triton compiles its launchers with the system's C compiler.
FROM engine AS engine-gpu
USER root
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ENV TRITON_CACHE_DIR=/tmp/triton

FROM base AS dashboard
COPY --from=dashboard-dependencies /venv /venv
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --quiet --no-cache-dir --no-index --no-deps --force-reinstall /wheel/*.whl
USER 10001:10001
EXPOSE 8501
CMD ["python", "-m", "dashboard", "--host", "0.0.0.0", "--port", "8501"]

FROM base AS loadtest
COPY --from=loadtest-dependencies /venv /venv
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --quiet --no-cache-dir --no-index --no-deps --force-reinstall /wheel/*.whl
USER 10001:10001
ENTRYPOINT ["python", "-m", "loadtest"]
