#!/bin/sh
set -eu

# An image that is only mounted is not pulled by `podman run`.
podman pull registry.example.com/models/modelcar-smollm2-135m-fp8@sha256:5555555555555555555555555555555555555555555555555555555555555555

podman run --rm \
  --name smollm2-135m-fp8 \
  --cap-drop ALL \
  --security-opt no-new-privileges \
  --pids-limit 4096 \
  --shm-size 2g \
  --publish 127.0.0.1:8000:8000 \
  --mount type=image,source=registry.example.com/models/modelcar-smollm2-135m-fp8@sha256:5555555555555555555555555555555555555555555555555555555555555555,destination=/modelcar \
  --env HF_HUB_OFFLINE=1 \
  --env HF_HOME=/tmp/hf_home \
  --env HOME=/tmp \
  --env USER=vllm \
  --env VLLM_NO_USAGE_STATS=1 \
  --env DO_NOT_TRACK=1 \
  --env VLLM_CPU_KVCACHE_SPACE=1 \
  --env PYTHONPATH=/opt/carwright/lib/python3.11/site-packages/containers/serve/plugin \
  --env TORCHDYNAMO_DISABLE=1 \
  --env OMP_WAIT_POLICY=PASSIVE \
  --env VLLM_CPU_OMP_THREADS_BIND=nobind \
  --env VLLM_ENABLE_V1_MULTIPROCESSING=0 \
  --entrypoint '["python3", "-m", "vllm.entrypoints.openai.api_server"]' \
  localhost/carwright/serve-cpu:latest \
  --model=/modelcar/models \
  --served-model-name=smollm2-135m-fp8 \
  --port=8000 \
  --max-model-len=2048 \
  --enforce-eager \
  --distributed-executor-backend=uni \
  --enable-auto-tool-choice \
  --tool-call-parser=hermes \
  --reasoning-parser=qwen3
