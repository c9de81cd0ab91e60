# One file, four images: producer, flower, worker (CPU) and worker-gpu. Each is its libraries (large, changes with its
# lock file) under the package (small, changes with the code), run by a user without rights:
#   docker build --target worker --tag pixelherd-worker .
ARG PYTHON=3.12-slim-bookworm

# What every image stands on: Python, the user, and a place for weights and converted networks.
FROM python:${PYTHON} AS machine
ENV PATH=/opt/pixelherd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIXELHERD_CACHE_DIR=/var/cache/pixelherd
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN groupadd --system --gid 10001 pixelherd \
    && useradd --system --uid 10001 --gid pixelherd --no-create-home --home-dir /nonexistent pixelherd \
    && install --directory --owner=pixelherd --group=pixelherd "$PIXELHERD_CACHE_DIR"
WORKDIR /var/cache/pixelherd

# Only wheels whose hash a lock file names; pip stays outside the virtual environment, so no image carries it there.
FROM machine AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/pixelherd

FROM build AS core-libraries
COPY config/locks/core.txt /locks/
RUN pip --python /opt/pixelherd install --require-hashes --requirement /locks/core.txt

FROM build AS flower-libraries
COPY config/locks/flower.txt /locks/
RUN pip --python /opt/pixelherd install --require-hashes --requirement /locks/flower.txt

FROM build AS worker-libraries
COPY config/locks/worker.txt /locks/
RUN pip --python /opt/pixelherd install --require-hashes --requirement /locks/worker.txt

FROM build AS gpu-libraries
COPY config/locks/gpu.txt /locks/
RUN pip --python /opt/pixelherd install --require-hashes --requirement /locks/gpu.txt

# The package itself, built without isolation so that its build tool is a locked one as well.
FROM build AS package
COPY config/locks/build.txt /locks/
RUN pip install --require-hashes --requirement /locks/build.txt
COPY pyproject.toml README.md LICENSE /source/
COPY config /source/config
COPY producer /source/producer
COPY workers /source/workers
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /source

FROM machine AS producer
COPY --from=core-libraries /opt/pixelherd /opt/pixelherd
RUN --mount=from=package,source=/wheels,target=/wheels \
    pip --python /opt/pixelherd install --no-cache-dir --no-index --no-deps /wheels/*.whl
USER 10001:10001
ENTRYPOINT ["pixelherd"]
CMD ["--help"]

FROM machine AS flower
COPY --from=flower-libraries /opt/pixelherd /opt/pixelherd
RUN --mount=from=package,source=/wheels,target=/wheels \
    pip --python /opt/pixelherd install --no-cache-dir --no-index --no-deps /wheels/*.whl
USER 10001:10001
ENTRYPOINT ["pixelherd"]
CMD ["flower"]

# The graphics card's driver is the host's: the NVIDIA container toolkit mounts it where these variables say so.
FROM machine AS worker-gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-libraries /opt/pixelherd /opt/pixelherd
RUN --mount=from=package,source=/wheels,target=/wheels \
    pip --python /opt/pixelherd install --no-cache-dir --no-index --no-deps /wheels/*.whl
USER 10001:10001
ENTRYPOINT ["pixelherd"]
CMD ["worker"]

FROM machine AS worker
COPY --from=worker-libraries /opt/pixelherd /opt/pixelherd
RUN --mount=from=package,source=/wheels,target=/wheels \
    pip --python /opt/pixelherd install --no-cache-dir --no-index --no-deps /wheels/*.whl
USER 10001:10001
ENTRYPOINT ["pixelherd"]
CMD ["worker"]
