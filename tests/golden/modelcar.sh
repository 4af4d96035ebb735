#!/usr/bin/env bash
# A modelcar by hand: GNU tar, sha256sum and jq, and nothing of Carwright's.
#
#   modelcar.sh CHECKPOINT CARD OUTPUT
#
# Writes one tar a file of CHECKPOINT and one for the CARD (a file), config.json and manifest.json into OUTPUT and prints
# the manifest's digest. The image has no base. Reads nothing of CHECKPOINT but paths and contents.
set -euo pipefail
export LC_ALL=C

checkpoint=$(realpath "$1") card=$(realpath "$2")
mkdir -p "$3"
output=$(realpath "$3")
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
epoch=1970-01-01T00:00:00Z

pack() { # pack OUT ENTRY...: a tar of the entries below the stage, every header field fixed
    local out=$1
    shift
    tar --create --file "$out" --directory "$stage/tree" --format=gnu --blocking-factor=1 --no-recursion \
        --numeric-owner --owner=0 --group=0 --mtime=@0 -- "$@"
}

sum() { sha256sum "$1" | cut -d' ' -f1; }

layers="$stage/layers.json" history="$stage/history.json"
: >"$layers"
: >"$history"

while IFS= read -r -d '' path; do
    rm -rf "$stage/tree"
    mkdir -p "$stage/tree/models/$(dirname "$path")"
    cp "$checkpoint/$path" "$stage/tree/models/$path"
    find "$stage/tree/models" -type d -exec chmod 775 {} +
    chmod 664 "$stage/tree/models/$path"
    entries=(models)
    folder=models
    IFS=/ read -r -a parts <<<"$path"
    for part in "${parts[@]}"; do
        folder="$folder/$part"
        entries+=("$folder")
    done
    pack "$stage/layer.tar" "${entries[@]}"
    digest=$(sum "$stage/layer.tar")
    cp "$stage/layer.tar" "$output/$digest"
    jq -cnS --arg digest "sha256:$digest" --argjson size "$(stat -c %s "$stage/layer.tar")" \
        --arg path "$path" --argjson length "$(stat -c %s "$checkpoint/$path")" \
        --arg file "sha256:$(sum "$checkpoint/$path")" --arg name "$(basename "$path")" '{
        mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $digest, size: $size,
        annotations: {
            "dev.carwright.files": ([[$path, $length, $file]] | tojson),
            "olot.layer.content.digest": $file,
            "olot.layer.content.inlayerpath": "/models/\($path)",
            "olot.layer.content.name": $name,
            "olot.layer.content.type": "file"
        }}' >>"$layers"
    jq -cnS --arg path "$path" --arg created $epoch \
        '{created: $created, created_by: "carwright: /models/\($path)"}' >>"$history"
done < <(cd "$checkpoint" && find . -type f -printf '%P\0' | sort -z)

rm -rf "$stage/tree"
mkdir -p "$stage/tree"
cp "$card" "$stage/tree/README.md"
chmod 664 "$stage/tree/README.md"
pack "$stage/layer.tar" README.md
digest=$(sum "$stage/layer.tar")
cp "$stage/layer.tar" "$output/$digest"
jq -cnS --arg digest "sha256:$digest" --argjson size "$(stat -c %s "$stage/layer.tar")" '{
    mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $digest, size: $size,
    annotations: {"dev.carwright.card": "true"}}' >>"$layers"
jq -cnS --arg created $epoch '{created: $created, created_by: "carwright: card"}' >>"$history"

jq -cnSj --slurpfile layers "$layers" --slurpfile history "$history" --arg created $epoch '{
    created: $created, architecture: "amd64", os: "linux",
    config: {
        Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], User: "1001", WorkingDir: "/"
    },
    rootfs: {type: "layers", diff_ids: [$layers[].digest]},
    history: $history}' >"$output/config.json"

jq -cnSj --slurpfile layers "$layers" --arg digest "sha256:$(sum "$output/config.json")" \
    --argjson size "$(stat -c %s "$output/config.json")" '{
    schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $digest, size: $size},
    layers: $layers, annotations: {"org.opencontainers.image.base.name": "none"}}' >"$output/manifest.json"

echo "sha256:$(sum "$output/manifest.json")"
