#!/usr/bin/env bash
# What most would guess: a pip-installed ONNX Runtime on Linux runs a model, and leaves nothing behind.
# What happens: importing it makes a persistent device identifier and a database of events in the user's cache folder
#   (.cache/Microsoft/DeveloperTools/.onnxruntime), for upload over HTTPS. disable_telemetry_events() comes too late: both
#   files are there by then. ORT_DISABLE_TELEMETRY=1 before the import leaves none.
# Version: onnxruntime 1.32.0, Linux x86_64. Date: 2026-11-27. Source: seen here; Privacy.md in the wheel.
# Why a user cares: scientists and companies run it on machines that must send nothing, and read-only homes fill logs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0

files() {  # of a home folder, after running code there
    rm -rf "$folder/home" && mkdir "$folder/home"
    env -u XDG_CACHE_HOME HOME="$folder/home" "$@" >/dev/null 2>&1
    find "$folder/home" -type f | wc -l
}

python="$folder/venv/bin/python"
imported=$(files "$python" -c "import onnxruntime")
disabled=$(files "$python" -c "import onnxruntime; onnxruntime.disable_telemetry_events()")
told=$(files env ORT_DISABLE_TELEMETRY=1 "$python" -c "import onnxruntime")
"$python" -c "import onnxruntime; print('onnxruntime', onnxruntime.__version__)"
echo "files in the home folder: imported $imported, disabled by the API $disabled, by the environment $told"
[ "$imported" -eq 2 ] && [ "$disabled" -eq 2 ] && [ "$told" -eq 0 ]
