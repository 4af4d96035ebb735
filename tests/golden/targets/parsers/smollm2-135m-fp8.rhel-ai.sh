#!/bin/sh
set -eu

# ilab takes a tag and no digest: say first that the tag still is what was tested.
test "$(skopeo inspect --format '{{.Digest}}' docker://registry.example.com/models/llama-3-3-70b-instruct-fp8-dynamic:1.5)" = \
  sha256:8888888888888888888888888888888888888888888888888888888888888888

ilab model download \
  --repository docker://registry.example.com/models/llama-3-3-70b-instruct-fp8-dynamic \
  --release 1.5

ilab model serve \
  --model-path ~/.cache/instructlab/models/llama-3-3-70b-instruct-fp8-dynamic \
  --backend vllm \
  --gpus 1 \
  --chat-template tokenizer \
  -- \
  --max-model-len=2048 \
  --enforce-eager \
  --distributed-executor-backend=uni \
  --enable-auto-tool-choice \
  --tool-call-parser=hermes \
  --reasoning-parser=qwen3

# In another terminal:
# ilab model chat --model ~/.cache/instructlab/models/llama-3-3-70b-instruct-fp8-dynamic
