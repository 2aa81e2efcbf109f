/** The worker: reads files, runs the model and writes results, so that the page stays responsive. */

import { encode } from "fast-png";
import { openEngine, type Backend, type Engine } from "./core/engine";
import { readOnnx } from "./core/onnx";
import { METADATA_KEY, typedStretch } from "./core/signature";
import { LARGEST_AREA, translate } from "./core/translate";
import type { Area } from "./core/windows";
import { openRaster } from "./input/open";
import type { Raster } from "./input/raster";
import { Scene } from "./input/scene";
import { polarisationsIn, preferredBand } from "./input/tags";
import { guessUnit, namesOf, refuseImpossible } from "./input/units";
import type { Reply, Request } from "./messages";
import { shifted, writeGeoTiff } from "./output/geotiff";

const state: {
  engine: Engine | null;
  raster: Raster | null;
  scene: Scene | null;
  result: { area: Area; rgba: Uint8ClampedArray<ArrayBuffer> } | null;
  stopped: boolean;
} = { engine: null, raster: null, scene: null, result: null, stopped: false };

const reply = (message: Reply, transfer: Transferable[] = []) => self.postMessage(message, { transfer });

/** The visitor's answers are needed one after another; "stop" is handled at once. */
let before: Promise<void> = Promise.resolve();
self.onmessage = ({ data }: MessageEvent<Request>) => {
  if (data.kind === "stop") {
    state.stopped = true;
    return;
  }
  before = before.then(() =>
    handle(data).catch((error: unknown) => {
      reply({ kind: "error", of: data.kind, message: error instanceof Error ? error.message : String(error) });
    }),
  );
};

async function handle(request: Request): Promise<void> {
  if (request.kind === "model") return loadModel(request.file, request.name, request.base);
  if (request.kind === "open") return open(request.file, request.name);
  if (request.kind === "scan") return scan(request.band, request.nodata);
  if (request.kind === "run") return run(request);
  if (request.kind === "save") return save(request.format);
}

const MODULES: Record<Backend, string> = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };

async function loadModel(file: Blob | null, name: string, base: string): Promise<void> {
  const found = file ?? (await (await fetched(new URL("generator.onnx", base))).blob());
  const bytes = new Uint8Array(await found.arrayBuffer());
  const gpu = "gpu" in navigator && (await navigator.gpu?.requestAdapter().catch(() => null));
  // A fallback adapter is software, a hundred times slower than WebAssembly.
  const engine = await openEngine(bytes, name, gpu && !gpu.info.isFallbackAdapter ? ["webgpu", "wasm"] : ["wasm"], async (backend) => {
    const folder = new URL("ort/", base).href;
    const ort = await import(/* @vite-ignore */ folder + MODULES[backend]);
    ort.env.wasm.wasmPaths = folder;
    // Threads need shared memory, which a page has only if its server isolates it.
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
    return ort;
  });
  await state.engine?.close();
  state.engine = engine;
  const { signature, backend } = engine;
  const signed = readOnnx(bytes, name).metadata.has(METADATA_KEY);
  reply({ kind: "model", model: { name: signature.name, unit: signature.unit, window: signature.window, backend, signed } });
}

async function fetched(url: URL): Promise<Response> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: the server answers ${response.status}: reload the page`);
  return response;
}

async function open(file: Blob, name: string): Promise<void> {
  state.scene = state.result = null;
  const raster = (state.raster = await openRaster(file, name));
  const bands = raster.bands.map((band) => {
    const named = polarisationsIn([band.description, ...band.tags.values()]);
    return { index: band.index, label: `${band.index + 1}${named.length === 1 ? `: ${named[0]}` : ""}` };
  });
  const band = preferredBand(raster.bands, (state.engine?.signature.bands[0] ?? "VV|VH").split("|"));
  const { height, width, dtype, georeference } = raster;
  reply({ kind: "open", raster: { name, height, width, dtype, bands, band, georeferenced: georeference !== null } });
}

async function scan(band: number, nodata: number | null): Promise<void> {
  const raster = state.raster!;
  state.scene = state.result = null;
  const scene = await Scene.scan(raster, band, nodata, (share) => reply({ kind: "progress", what: "Reading the file", share }));
  state.scene = scene;
  const tags = raster.bands.find(({ index }) => index === band)!;
  const packed = tags.scale !== 1 || tags.offset !== 0;
  const dtype = packed ? "float32" : raster.dtype;
  const guess = guessUnit(dtype, namesOf(raster, tags, raster.dtype), scene.sample(null));
  reply({ kind: "scan", scan: { overview: scene.overview, guess, suspect: scene.suspect } });
}

async function run({ unit, stretch, area }: Extract<Request, { kind: "run" }>): Promise<void> {
  const { scene, engine } = state;
  if (!engine) throw new Error("the model is not loaded: reload the page, or open a model");
  if (!scene) throw new Error("no scene is open: open a file");
  const height = area.rows[1] - area.rows[0];
  const width = area.cols[1] - area.cols[0];
  if (height * width > LARGEST_AREA) throw new Error(`the area has ${height * width} pixels, this page takes ${LARGEST_AREA}: choose a smaller one`);
  refuseImpossible(unit, scene.sample(unit), scene.raster.dtype);
  state.result = null;
  state.stopped = false;
  const rgba = new Uint8ClampedArray(4 * height * width);
  const started = performance.now();
  let windows = 0;
  await translate({
    scene,
    engine,
    unit,
    stretch: typedStretch(stretch),
    area,
    stopped: () => state.stopped,
    onProgress: (done, all) => {
      windows = all;
      reply({ kind: "progress", what: `Window ${done} of ${all}`, share: done / all });
    },
    onRows: (rows) => {
      rgba.set(rows.rgba, 4 * rows.start * width);
      reply({ kind: "rows", start: rows.start, rgba: rows.rgba, grey: rows.grey }, [rows.rgba.buffer, rows.grey.buffer]);
    },
  });
  if (!state.stopped) state.result = { area, rgba };
  reply({ kind: "run", seconds: (performance.now() - started) / 1000, windows, stopped: state.stopped });
}

async function save(format: "png" | "tif"): Promise<void> {
  if (!state.result || !state.raster) throw new Error("there is no result to save: translate first");
  const { area, rgba } = state.result;
  const [height, width] = [area.rows[1] - area.rows[0], area.cols[1] - area.cols[0]];
  if (format === "png") {
    const png = encode({ width, height, data: new Uint8Array(rgba.buffer), channels: 4, depth: 8 });
    return reply({ kind: "save", format, blob: new Blob([png as Uint8Array<ArrayBuffer>], { type: "image/png" }) });
  }
  const georeference = state.raster.georeference && shifted(state.raster.georeference, area.rows[0], area.cols[0]);
  reply({ kind: "save", format, blob: await writeGeoTiff(rgba, height, width, georeference, "sar2optical (browser)") });
}
