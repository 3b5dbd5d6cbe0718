# CPU:   docker build -t textseg .
# CUDA:  docker build --build-arg TORCH=cuda -t textseg:cuda .
# Use:   docker run --rm -v "$PWD:/data" textseg fit --config /opt/textseg/experiments/quickstart.yaml
FROM python:3.11-slim-bookworm
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/data/.cache/huggingface
WORKDIR /opt/textseg
# Dependencies change less often than the code: torch has a layer of its own. The registry's own
# wheels are those for CUDA.
RUN case "$TORCH" in \
      cpu) pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) pip install torch torchvision ;; \
      *) echo "TORCH is cpu or cuda, not $TORCH" >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE lightning_cli.py ./
COPY textseg textseg
COPY datamodules datamodules
COPY experiments experiments
RUN pip install '.[dicom-seg]' \
 && useradd --create-home --uid 1000 textseg \
 && install -d -o textseg /data
USER 1000
WORKDIR /data
ENTRYPOINT ["textseg"]
CMD ["--help"]
