# One image for every process: docker build --target growbin --tag growbin:0.1.0 .
#                              docker run growbin:0.1.0 gateway | consumer | doctor | ...
# The embedded model for trials:   --target growbin-model --tag growbin-model:0.1.0

FROM python:3.13.9-slim-bookworm AS build
# --build-arg REQUIREMENTS=tracing adds what sends traces.
ARG REQUIREMENTS
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements requirements
RUN python -m venv --without-pip /opt/growbin \
    && python -m pip --python /opt/growbin install --only-binary :all: --require-hashes --requirement requirements/${REQUIREMENTS:-run}.txt
RUN python -m pip install --only-binary :all: --require-hashes --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m pip --python /opt/growbin install --no-deps /wheels/growbin-*.whl

FROM build AS build-model
RUN python -m pip --python /opt/growbin install --only-binary :all: --require-hashes --requirement requirements/model.txt

FROM python:3.13.9-slim-bookworm AS run
# checkov:skip=CKV_DOCKER_2: Kubernetes asks the probes; Docker's own health check would be a second opinion
# The model's client trusts the system's certificates; pip has no business in a running service.
# hadolint ignore=DL3008  # the certificates are to be the newest that the base image's Debian has
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && python -m pip uninstall --yes pip \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin growbin
ENV PATH=/opt/growbin/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8081
ENTRYPOINT ["growbin"]
CMD ["--help"]

FROM run AS growbin-model
COPY --from=build-model /opt/growbin /opt/growbin

# Last, so that it is what is built when no target is named.
FROM run AS growbin
COPY --from=build /opt/growbin /opt/growbin
