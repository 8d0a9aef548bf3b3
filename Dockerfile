# Two stages: the first builds the environment, the second runs it without compiler, pip or root.

# The Python version that CI tests.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/build/bin:$PATH
RUN python -m venv /build && python -m venv --without-pip /opt/inventory
WORKDIR /src
# Dependencies first: they change less often than the code, so this layer stays in the cache.
COPY requirements.txt requirements-build.txt ./
RUN pip install --require-hashes --requirement requirements-build.txt \
    && pip --python /opt/inventory/bin/python install --require-hashes --requirement requirements.txt
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && pip --python /opt/inventory/bin/python install --no-deps /wheel/*.whl

FROM ${PYTHON}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin inventory
COPY --from=build /opt/inventory /opt/inventory
ENV PATH=/opt/inventory/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8000
ENTRYPOINT ["inventory"]
CMD ["run"]
