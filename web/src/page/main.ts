/** The page: opens files, asks what a file does not say, and shows the result. */

import type { Unit } from "../core/signature";
import { LARGEST_AREA } from "../core/translate";
import { DEFAULT_OVERLAP, touching, windowGrid } from "../core/windows";
import type { ModelReply, OpenReply, Reply, Request, ScanReply } from "../messages";
import { AreaChoice } from "./area";
import { context, download, element, input, paintOverview, select, show, sized } from "./dom";

const EXAMPLES = 3;
const SHOWN: Record<Unit, string> = { dn: "DN", amplitude: "amplitude", power: "power", db: "dB", byte: "bytes" };
/** A scene of fewer pixels is translated at once where its file says all that is needed. */
const AT_ONCE = 1_000_000;
/** Side of a window, before the model is loaded. */
const USUAL_WINDOW = 256;

const worker = new Worker(new URL("../worker.ts", import.meta.url), { type: "module" });
const send = (request: Request) => worker.postMessage(request);
const base = new URL("./", document.baseURI).href;

const page: { model: ModelReply | null; raster: OpenReply | null; scan: ScanReply | null; busy: boolean; atOnce: boolean } = {
  model: null,
  raster: null,
  scan: null,
  busy: false,
  atOnce: false,
};
/** Name of the file that was opened last. */
let opening = "";
const choice = new AreaChoice(() => estimate());

worker.onmessage = ({ data }: MessageEvent<Reply>) => {
  if (data.kind === "progress") progress(data.what, data.share);
  else if (data.kind === "rows") paint(data.start, data.rgba, data.grey);
  else if (data.kind === "model") modelLoaded(data.model);
  else if (data.kind === "open") opened(data.raster);
  else if (data.kind === "scan") scanned(data.scan);
  else if (data.kind === "run") finished(data.seconds, data.windows, data.stopped);
  else if (data.kind === "save") saved(data.blob, data.format);
  else if (data.kind === "error") failed(data.of, data.message);
};
worker.onerror = () => failed("open", "the page could not start: reload it, or use a newer browser");

function busy(what: string | null, stoppable = false): void {
  page.busy = what !== null;
  show("busy", page.busy);
  show("stop", stoppable);
  for (const id of ["run", "change", "again", "back"]) input(id).disabled = page.busy;
  if (what !== null) progress(what, null);
}

function progress(what: string, share: number | null): void {
  element("status").textContent = what;
  const bar = element<HTMLProgressElement>("progress");
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

function failed(of: Request["kind"], message: string): void {
  busy(null);
  page.atOnce = false;
  const named = opening !== "" && message.startsWith(opening); // a file's name stays as it is
  element("error").textContent = named ? message : message.charAt(0).toUpperCase() + message.slice(1);
  show("error", true);
  if (of === "run") section("scene");
  if (of === "open") section("start");
  if (of === "model" && !page.model) element("model").textContent = "No model is loaded.";
  element("error").scrollIntoView({ block: "nearest" });
}

/** Show one part of the page. */
function section(id: "start" | "scene" | "result"): void {
  const changed = element(id).hidden;
  for (const other of ["start", "scene", "result"]) show(other, other === id);
  if (!changed) return;
  element(`${id}-title`).focus({ preventScroll: true }); // else the focus would be on a hidden button
  scrollTo(0, 0);
}

function modelLoaded(model: ModelReply): void {
  page.model = model;
  const where = model.backend === "webgpu" ? "WebGPU" : "WebAssembly";
  const bytes = model.signed ? "" : " It says nothing about its input: bytes, 0 to 255, are assumed, as in published pix2pix chips.";
  element("model").textContent = `Model: ${model.name}, windows of ${model.window} pixels, on ${where}.${bytes}`;
  if (page.busy && !page.raster) busy(null);
  offline();
}

function openFile(file: Blob, name: string): void {
  show("error", false);
  opening = name;
  if (/\.onnx$/i.test(name)) return openModel(file, name);
  Object.assign(page, { raster: null, scan: null, atOnce: true });
  input("nodata").value = input("stretch").value = "";
  busy(`Opening ${name}`);
  send({ kind: "open", file, name });
}

function openModel(file: Blob, name: string): void {
  opening = name;
  element("model").textContent = `Loading ${name}`;
  send({ kind: "model", file, name, base });
}

function opened(raster: OpenReply): void {
  page.raster = raster;
  const { name, height, width, dtype, georeferenced } = raster;
  element("scene-facts").textContent =
    `${name}: ${height} rows, ${width} columns, ${dtype}, ` +
    (georeferenced ? "georeferenced." : "not georeferenced.");
  const bands = select("band");
  bands.replaceChildren(...raster.bands.map(({ index, label }) => new Option(label, String(index))));
  if (raster.band === null) bands.prepend(new Option("Choose the band", "", true, true));
  else bands.value = String(raster.band);
  show("band-field", raster.bands.length > 1);
  show("overview-box", raster.band !== null);
  select("unit").value = ""; // not that of the file before
  element("unit-note").textContent = raster.band === null ? "Choose the band: its values may tell the unit." : "";
  choice.begin(height, width);
  if (raster.band === null) {
    page.atOnce = false;
    busy(null);
    section("scene");
  } else scan();
}

function scan(): void {
  const text = input("nodata").value.trim().replace(",", ".");
  const nodata = text === "" ? null : Number(text);
  if (nodata !== null && !Number.isFinite(nodata)) return failed("scan", `"${text}" is not a nodata value: give a number`);
  if (select("band").value === "") return;
  show("error", false);
  busy("Reading the file");
  send({ kind: "scan", band: Number(select("band").value), nodata });
}

function scanned(found: ScanReply): void {
  page.scan = found;
  busy(null);
  show("overview-box", true);
  paintOverview("overview", found.overview);
  const { guess, suspect } = found;
  if (guess.unit) select("unit").value = guess.unit;
  element("unit-note").textContent = guess.unit ? `Detected ${SHOWN[guess.unit]}: ${guess.reason}.` : `Choose the unit: it is ambiguous (${guess.question}).`;
  element("nodata-note").textContent =
    suspect === null ? "" : `Many neighbouring pixels have the value ${suspect}, which looks like undeclared nodata. Enter the nodata value.`;
  show("nodata-note", suspect !== null);
  if (suspect !== null) element<HTMLDetailsElement>("more").open = true;
  const { height, width } = page.raster!;
  const known = guess.unit !== null && suspect === null && height * width <= AT_ONCE;
  if (page.atOnce && known) return run();
  page.atOnce = false;
  section("scene");
}

/** Say how many windows the chosen area needs. */
function estimate(): void {
  const { area } = choice;
  if (!area) return void (element("cost").textContent = "");
  const [height, width] = [area.rows[1] - area.rows[0], area.cols[1] - area.cols[0]];
  const window = page.model?.window ?? USUAL_WINDOW;
  const grid = windowGrid(page.raster!.height, page.raster!.width, window, DEFAULT_OVERLAP);
  const windows = touching(grid.rows, window, ...area.rows).length * touching(grid.cols, window, ...area.cols).length;
  const large = height * width > LARGEST_AREA ? " This is more than the page takes: choose a smaller area." : "";
  element("cost").textContent = `${height} x ${width} pixels, ${windows} ${windows === 1 ? "window" : "windows"} of ${window} pixels.${large}`;
}

function run(): void {
  const { area } = choice;
  if (!area || page.busy) return;
  show("error", false);
  if (page.scan?.suspect != null) return failed("run", element("nodata-note").textContent!);
  page.atOnce = false;
  const [height, width] = [area.rows[1] - area.rows[0], area.cols[1] - area.cols[0]];
  if (height * width > LARGEST_AREA) return failed("run", `the area has more than ${LARGEST_AREA} pixels: choose a smaller one`);
  for (const id of ["radar", "optical"]) sized(id, height, width);
  element("viewer").style.setProperty("--ratio", String(width / height));
  element("result-title").textContent = `Result: ${page.raster!.name}`;
  section("result");
  show("timing", false);
  for (const id of ["save-png", "save-tif"]) input(id).disabled = true;
  busy(page.model ? "Starting" : "Loading the model", true);
  send({ kind: "run", unit: select("unit").value as Unit, stretch: input("stretch").value, area });
}

function paint(start: number, rgba: Uint8ClampedArray<ArrayBuffer>, grey: Uint8ClampedArray<ArrayBuffer>): void {
  const { width } = element<HTMLCanvasElement>("optical");
  context("optical").putImageData(new ImageData(rgba, width), 0, start);
  context("radar").putImageData(new ImageData(grey, width), 0, start);
}

function finished(seconds: number, windows: number, stopped: boolean): void {
  busy(null);
  if (stopped) return section("scene");
  for (const id of ["save-png", "save-tif"]) input(id).disabled = false;
  element("timing").textContent = `${windows} ${windows === 1 ? "window" : "windows"} in ${seconds.toFixed(1)} s.`;
  show("timing", true);
}

function saved(blob: Blob, format: "png" | "tif"): void {
  busy(null);
  const stem = page.raster!.name.replace(/\.[^.]*$/, "");
  download(blob, `${stem}-optical.${format}`);
}

function save(format: "png" | "tif"): void {
  busy("Writing the file");
  send({ kind: "save", format });
}

/** Keep the site's files for the next visit, after the model is loaded. */
function offline(): void {
  if (import.meta.env.PROD && "serviceWorker" in navigator) {
    navigator.serviceWorker.register("sw.js").catch(() => {}); // without it, the page only needs a network
  }
}

function listExamples(): void {
  for (let number = 1; number <= EXAMPLES; number++) {
    const button = document.createElement("button");
    const picture = Object.assign(new Image(), { src: `examples/example-${number}.png`, alt: "" });
    button.append(picture, Object.assign(document.createElement("span"), { textContent: `Example ${number}` }));
    button.addEventListener("click", async () => {
      if (page.busy) return;
      busy("Loading the example");
      try {
        const response = await fetch(`examples/example-${number}.tif`);
        if (!response.ok) throw new Error(`the server answers ${response.status}`);
        openFile(await response.blob(), `example-${number}.tif`);
      } catch (error) {
        failed("open", `the example cannot be loaded (${(error as Error).message}): reload the page`);
      }
    });
    const item = document.createElement("li");
    item.append(button);
    element("examples").append(item);
  }
}

function listen(): void {
  const on = (id: string, kind: string, action: (event: Event) => void) => element(id).addEventListener(kind, action);
  const picked = (id: string, open: (file: File) => void) =>
    on(id, "change", () => {
      const file = input(id).files?.[0];
      if (file) open(file);
      input(id).value = "";
    });
  picked("file", (file) => openFile(file, file.name));
  picked("model-file", (file) => openModel(file, file.name));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    const file = event.dataTransfer?.files[0];
    if (!file || page.busy) return;
    const folder = event.dataTransfer?.items[0]?.webkitGetAsEntry()?.isDirectory;
    if (folder) failed("open", `${file.name}: is a folder: give a GeoTIFF; products (.SAFE) are read by sar2opt-scene`);
    else openFile(file, file.name);
  });
  on("options", "submit", (event) => {
    event.preventDefault();
    run();
  });
  on("band", "change", scan);
  on("nodata", "change", scan);
  on("stop", "click", () => send({ kind: "stop" }));
  on("back", "click", () => section("start"));
  on("again", "click", () => section("start"));
  on("change", "click", () => section("scene"));
  on("save-png", "click", () => save("png"));
  on("save-tif", "click", () => save("tif"));
  on("swipe", "input", () => element("viewer").style.setProperty("--at", `${input("swipe").value}%`));
  on("zoom", "click", () => {
    const actual = element("viewer").classList.toggle("actual");
    element("zoom").setAttribute("aria-pressed", String(actual));
  });
}

listExamples();
listen();
send({ kind: "model", file: null, name: "generator.onnx", base });
