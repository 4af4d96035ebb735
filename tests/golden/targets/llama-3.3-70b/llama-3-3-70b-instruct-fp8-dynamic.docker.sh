#!/bin/sh
set -eu

# The model: files and `sleep`, nothing else.
docker run --detach --name llama-3-3-70b-instruct-fp8-dynamic-model \
  --restart unless-stopped \
  --network none \
  --user 1001:0 \
  --read-only \
  --cap-drop ALL \
  --security-opt no-new-privileges \
  --pids-limit 64 \
  registry.example.com/models/modelcar-llama-3-3-70b-instruct-fp8-dynamic@sha256:7777777777777777777777777777777777777777777777777777777777777777 \
  sleep infinity

# vLLM, as the same user: otherwise the kernel denies it /proc/1/root.
docker run --detach --name llama-3-3-70b-instruct-fp8-dynamic \
  --restart unless-stopped \
  --pid container:llama-3-3-70b-instruct-fp8-dynamic-model \
  --user 1001:0 \
  --cap-drop ALL \
  --security-opt no-new-privileges \
  --pids-limit 32768 \
  --gpus 8 \
  --shm-size 16g \
  --publish 127.0.0.1:8000:8000 \
  --env HF_HUB_OFFLINE=1 \
  --env HF_HOME=/tmp/hf_home \
  --env HOME=/tmp \
  --env USER=vllm \
  --env VLLM_NO_USAGE_STATS=1 \
  --env DO_NOT_TRACK=1 \
  --entrypoint python3 \
  docker.io/vllm/vllm-openai:v0.30.0@sha256:8a69ffad015f138d7170c4ddc429e230a3bc1c1719f67e14324749df200a4b90 \
  -m vllm.entrypoints.openai.api_server \
  --model=/proc/1/root/models \
  --served-model-name=llama-3-3-70b-instruct-fp8-dynamic \
  --port=8000 \
  --max-model-len=32768 \
  --tensor-parallel-size=8 \
  --gpu-memory-utilization=0.9
