#!/usr/bin/env bash
# What most would guess: a remote GeoTIFF whose server refuses a range request raises an error, with or without threads.
# What happens: with GDAL_NUM_THREADS of 2 or more, reading an uncompressed tiled GeoTIFF where requests fail raises no error
#   and returns pixels that are not the file's: zeros, or those of blocks read before. With one thread, and for compressed
#   files, it raises.
# Version: rasterio 1.4.4 (GDAL 3.10.3), numpy 2.4.6. Date: 2026-11-27.
# Source: seen here; OSGeo/gdal#11552 describes the read.
# Why a user cares: a scene behind an address whose token expires becomes a mosaic of nothing, and the exit code is 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cat > "$folder/server.py" <<'PY'
import http.server, sys
from pathlib import Path

class Server(http.server.BaseHTTPRequestHandler):
    """Serves a file in ranges; refuses all after the first three requests."""

    protocol_version, asked = "HTTP/1.1", 0

    def do_GET(self):
        Server.asked += 1
        data, span = Path(sys.argv[1]).read_bytes(), self.headers.get("Range")
        if Server.asked > 3:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        first, last = (map(int, span[6:].split("-")) if span else (0, len(data) - 1))
        part = data[first : last + 1]
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
print(server.server_port, flush=True)
server.serve_forever()
PY
cat > "$folder/read.py" <<'PY'
import subprocess, sys
import numpy as np, rasterio
from rasterio.errors import RasterioIOError
from rasterio.transform import from_origin
from rasterio.windows import Window

folder = sys.argv[1]
data = np.random.default_rng(0).integers(1, 60000, (2048, 2048)).astype("uint16")
found = {}
for compress in ("none", "deflate"):
    path = f"{folder}/{compress}.tif"
    layout = dict(tiled=True, blockxsize=256, blockysize=256, crs="EPSG:32631", transform=from_origin(5e5, 5e6, 10, 10))
    if compress != "none":
        layout["compress"] = compress
    with rasterio.open(path, "w", driver="GTiff", width=2048, height=2048, count=1, dtype="uint16", **layout) as file:
        file.write(data, 1)
    for threads in ("1", "2"):
        server = subprocess.Popen([sys.executable, f"{folder}/server.py", path], stdout=subprocess.PIPE, text=True)
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/{compress}.tif"
        try:
            with rasterio.Env(GDAL_NUM_THREADS=threads, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), rasterio.open(url) as file:
                rows = [file.read(1, window=Window(0, start, 2048, 256)) for start in range(0, 2048, 256)]
            read = np.concatenate(rows)
            found[compress, threads] = f"no error, {(read != data).mean():.0%} of the pixels wrong"
        except RasterioIOError:
            found[compress, threads] = "error"
        server.kill()
        server.wait()
        print(rasterio.__version__, rasterio.__gdal_version__, "compress", compress, "threads", threads, "->", found[compress, threads])
silent = found["none", "2"].startswith("no error") and " 0% " not in found["none", "2"]
sys.exit(0 if silent and all(v == "error" for k, v in found.items() if k != ("none", "2")) else 1)
PY
"$folder/venv/bin/python" -W ignore "$folder/read.py" "$folder"
