#!/bin/sh
set -eu

# An image that is only mounted is not pulled by `podman run`.
podman pull registry.example.com/models/modelcar-llama-3-3-70b-instruct-fp8-dynamic@sha256:7777777777777777777777777777777777777777777777777777777777777777

podman run --rm \
  --name llama-3-3-70b-instruct-fp8-dynamic \
  --cap-drop ALL \
  --security-opt no-new-privileges \
  --pids-limit 32768 \
  --device nvidia.com/gpu=0 \
  --device nvidia.com/gpu=1 \
  --device nvidia.com/gpu=2 \
  --device nvidia.com/gpu=3 \
  --device nvidia.com/gpu=4 \
  --device nvidia.com/gpu=5 \
  --device nvidia.com/gpu=6 \
  --device nvidia.com/gpu=7 \
  --security-opt label=disable \
  --shm-size 16g \
  --publish 127.0.0.1:8000:8000 \
  --mount type=image,source=registry.example.com/models/modelcar-llama-3-3-70b-instruct-fp8-dynamic@sha256:7777777777777777777777777777777777777777777777777777777777777777,destination=/modelcar \
  --env HF_HUB_OFFLINE=1 \
  --env HF_HOME=/tmp/hf_home \
  --env HOME=/tmp \
  --env USER=vllm \
  --env VLLM_NO_USAGE_STATS=1 \
  --env DO_NOT_TRACK=1 \
  --entrypoint '["python3", "-m", "vllm.entrypoints.openai.api_server"]' \
  registry.redhat.io/rhaiis/vllm-cuda-rhel9:3.3.0 \
  --model=/modelcar/models \
  --served-model-name=llama-3-3-70b-instruct-fp8-dynamic \
  --port=8000 \
  --max-model-len=32768 \
  --tensor-parallel-size=8 \
  --gpu-memory-utilization=0.9
