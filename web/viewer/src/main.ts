/** The viewer's page: radar and mosaic side by side, on the grid of the mosaic's pixels. */

import "ol/ol.css";
import "./style.css";
import type DataTile from "ol/DataTile";
import OlMap from "ol/Map";
import View from "ol/View";
import { Cog } from "./cog";
import { fetchJson, type PageData, type State } from "./data";
import { onKeys } from "./keys";
import { ofFile, pixels, served, type PixelLayer } from "./layers";
import { element, fill, message, scaleBar, showPicture } from "./panel";
import { Probe } from "./probe";
import { Swipe } from "./swipe";
import { drawWindows } from "./windows";

const FINEST = 1 / 32;
const POLL = 400;
const FIRST = 2000;
const MARGIN = 12;

/** What can be shown on a side. */
interface Choice {
  name: string;
  layer: PixelLayer;
  /** Number of the mosaic whose provenance is shown with it. */
  mosaic: number | null;
}

type Side = "left" | "right";

const pressed = (id: string): boolean => element(id).getAttribute("aria-pressed") === "true";

async function choicesOf(data: PageData, projection: ReturnType<typeof pixels>): Promise<Choice[]> {
  const tiled = (name: string, tiles: string, mosaic: number | null = null): Choice => ({ name, layer: served(data, projection, tiles), mosaic });
  const mosaics = data.mosaics.map(async ({ name, file, tiles }, k): Promise<Choice> => {
    if (!file) return tiled(name, tiles, k);
    return { name, layer: ofFile(data, projection, await Cog.open(file, data.shapes)), mosaic: k };
  });
  const differences = data.mosaics.flatMap(({ name, difference, gain }, k) => (difference ? [tiled(`Difference x ${gain}: ${name}`, difference, k)] : []));
  return [
    ...data.radar.map(({ name, tiles }) => tiled(`Radar ${name}`, tiles)),
    ...(await Promise.all(mosaics)),
    ...(data.truth ? [tiled(`Optical image ${data.truth.name}`, data.truth.tiles)] : []),
    ...differences,
  ];
}

class Viewer {
  private readonly map: OlMap;
  private readonly swipe: Swipe;
  private readonly probe: Probe;
  private readonly masks: PixelLayer[];
  private readonly shown: Record<Side, number>;
  private readonly opacity = element<HTMLInputElement>("opacity");

  constructor(
    private readonly data: PageData,
    private readonly choices: Choice[],
    projection: ReturnType<typeof pixels>,
  ) {
    const [height, width] = data.shape;
    this.masks = data.mosaics.map(({ mask }) => served(data, projection, mask));
    this.shown = { left: 0, right: data.radar.length };
    const view = new View({
      projection,
      center: [width / 2, -height / 2],
      resolution: 1,
      minResolution: FINEST,
      maxResolution: 2 ** Math.ceil(Math.log2(Math.max(4, width / 100, height / 100))), // ol keeps to powers from here
      extent: [0, -height, width, 0],
      constrainOnlyCenter: true,
      smoothResolutionConstraint: false,
      enableRotation: false,
    });
    // Keys are those of `onKeys`: ol's own would work on the map alone.
    this.map = new OlMap({ target: "map", view, controls: [], layers: [], keyboardEventTarget: document.createElement("div") });
    this.swipe = new Swipe(this.map, element("line"));
    this.probe = new Probe(this.map, data);
    choices.forEach(({ layer }, index) => this.swipe.clip(layer, () => this.sideOf(index)));
    this.listen();
    this.arrange();
    this.fit();
    if (!data.grid) this.disable("toggle-grid", `Windows: ${data.gridNote}`);
  }

  private get view(): View {
    return this.map.getView();
  }

  private get chosen(): Choice[] {
    return [this.choices[this.shown.left], this.choices[this.shown.right]];
  }

  /** Where the layer of a choice is drawn: under a picture that lets it through, the left one is on both sides. */
  private sideOf(index: number): Side | "both" {
    if (index !== this.shown.left) return "right";
    return Number(this.opacity.value) < 100 ? "both" : "left";
  }

  /** Show the chosen layers, and what belongs to them. */
  private arrange(): void {
    const [left, right] = this.chosen;
    left.layer.setOpacity(1);
    right.layer.setOpacity(Number(this.opacity.value) / 100);
    const mosaic = right.mosaic ?? left.mosaic ?? 0;
    this.map.setLayers([left.layer, right.layer, ...(pressed("toggle-mask") ? [this.masks[mosaic]] : [])]);
    element("left-name").textContent = left.name;
    element("right-name").textContent = right.name;
    element("left-name").hidden = !this.swipe.on;
    const rows = this.data.mosaics[mosaic].provenance;
    fill("provenance", rows.length ? rows : [["Provenance", "the mosaic has no tags of sar2optical"]]);
    this.map.render();
  }

  private choose(side: Side, index: number): void {
    const other: Side = side === "left" ? "right" : "left";
    if (this.shown[other] === index) this.shown[other] = this.shown[side]; // the sides change places
    this.shown[side] = index;
    for (const one of ["left", "right"] as const) element<HTMLSelectElement>(one).value = String(this.shown[one]);
    this.arrange();
  }

  private toggle(id: string): boolean {
    const button = element<HTMLButtonElement>(id);
    if (button.disabled) return false;
    button.setAttribute("aria-pressed", String(!pressed(id)));
    return pressed(id);
  }

  private disable(id: string, why: string): void {
    element<HTMLButtonElement>(id).disabled = true;
    element(id).title = why;
  }

  private panels(id: "panel" | "help"): void {
    element(id).hidden = !this.toggle(`toggle-${id}`);
    this.map.updateSize();
  }

  private fit(): void {
    const [height, width] = this.data.shape;
    this.view.fit([0, -height, width, 0], { padding: [MARGIN, MARGIN, MARGIN, MARGIN], minResolution: FINEST });
  }

  private zoom(factor: number): void {
    this.view.cancelAnimations();
    const wanted = this.view.getResolution()! / factor;
    this.view.setResolution(Math.min(Math.max(wanted, FINEST), this.view.getMaxResolution()));
  }

  /** Show one pixel of the file on one pixel of the page; pixels of both begin at the same places. */
  private oneToOne(): void {
    const [x, y] = this.view.getCenter()!;
    const [width, height] = this.map.getSize()!;
    const [odd, odder] = [(width % 2) / 2, (height % 2) / 2];
    this.view.setCenter([Math.round(x) + odd, Math.round(y) + odder]);
    this.view.setResolution(1);
  }

  private pan(right: number, down: number, single: boolean): void {
    const resolution = this.view.getResolution()!;
    const step = single ? 1 : Math.max(1, Math.round(128 * resolution));
    const [x, y] = this.view.getCenter()!;
    this.view.cancelAnimations();
    this.view.setCenter([x + right * step, y - down * step]);
  }

  private listen(): void {
    for (const side of ["left", "right"] as const) {
      const list = element<HTMLSelectElement>(side);
      list.replaceChildren(...this.choices.map(({ name }, index) => new Option(name, String(index))));
      list.value = String(this.shown[side]);
      let byMouse = false;
      list.addEventListener("pointerdown", () => (byMouse = true));
      list.addEventListener("keydown", () => (byMouse = false));
      list.addEventListener("change", () => {
        this.choose(side, Number(list.value));
        if (byMouse) element("map").focus(); // else the list would keep the keys
      });
    }
    this.opacity.addEventListener("input", () => this.arrange());
    const actions: Record<string, () => void> = {
      "toggle-swipe": () => (this.toggle("toggle-swipe"), this.swipe.toggle(), this.arrange()),
      "toggle-mask": () => (this.toggle("toggle-mask"), this.arrange()),
      "toggle-grid": () => (this.toggle("toggle-grid"), this.map.render()),
      "toggle-panel": () => this.panels("panel"),
      "toggle-help": () => this.panels("help"),
      "zoom-in": () => this.zoom(2),
      "zoom-out": () => this.zoom(1 / 2),
      "one-to-one": () => this.oneToOne(),
      fit: () => this.fit(),
    };
    for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", action);
    onKeys({
      pan: (right, down, single) => (this.pan(right, down, single), this.probe.atCentre()),
      press: (id) => (actions[id](), /zoom|one|fit/.test(id) && this.probe.atCentre()),
      close: () => (element("help").hidden ? pressed("toggle-panel") && this.panels("panel") : this.panels("help")),
    });
    const state = element("map").dataset;
    this.map.on("loadstart", () => (state.state = "loading"));
    this.map.on("rendercomplete", () => {
      state.state = "complete";
      for (const { layer } of this.chosen) void layer.getSource()!.ahead.around(this.view.calculateExtent(), this.view.getResolution()!);
    });
    this.map.on("movestart", () => this.chosen.forEach(({ layer }) => layer.getSource()!.ahead.stop()));
    this.map.on("postrender", () => this.overlay());
    for (const { name, layer } of this.choices) {
      layer.getSource()!.on("tileloaderror", ({ tile }) => message(`${name}: ${(tile as DataTile).getError()?.message ?? "a part cannot be read"}`));
    }
    addEventListener("resize", () => this.map.updateSize());
  }

  /** Draw what is not a layer: windows and scale bar. */
  private overlay(): void {
    const canvas = element<HTMLCanvasElement>("windows");
    const resolution = this.view.getResolution();
    if (resolution === undefined || !this.map.getSize()) return;
    const hints = pressed("toggle-mask") ? ["pink: no value"] : [];
    canvas.hidden = !pressed("toggle-grid");
    if (!canvas.hidden && this.data.grid) {
      const drawn = drawWindows(this.map, canvas, this.data.grid, this.data.shape);
      if (!drawn) hints.push("zoom in to see the windows");
    }
    element("hint").textContent = hints.join("; ");
    const { text, width } = scaleBar(this.data.metres, resolution);
    element("scale-text").textContent = text;
    element("scale-bar").style.width = `${width}px`;
    element("zoom-level").textContent = resolution > 1 ? `1:${Number(resolution.toFixed(1))}` : `${Number((1 / resolution).toFixed(1))}:1`;
    element("map").dataset.resolution = String(resolution);
  }

  /** Fetch tiles again that the server could not render before. */
  private refresh(): void {
    for (const { layer } of this.choices) layer.getSource()!.renew();
    for (const layer of this.masks) layer.getSource()!.renew();
  }

  /** Wait for the reduced levels that the server computes, from the first time that it is asked for them. */
  async follow(): Promise<void> {
    await new Promise((resolve) => (this.map.once("rendercomplete", resolve), setTimeout(resolve, FIRST)));
    for (let waited = false; ; waited = true) {
      const { progress, error } = await fetchJson<State>("state.json");
      if (error) return message(`No reduced picture: ${error}. Zoom in to 1:1 to see the radar.`);
      if (progress === 1) {
        message("");
        return waited ? this.refresh() : undefined;
      }
      message(`Reading the scene for the reduced picture: ${Math.floor(progress * 100)} %`);
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
  }
}

async function start(): Promise<void> {
  const data = await fetchJson<PageData>("data.json");
  document.title = `${data.title} | sar2optical`;
  element("title").textContent = data.title;
  element("title").title = data.title;
  element("note").textContent = `Mosaic: ${data.note}.`;
  showPicture(data);
  const projection = pixels(data.shape);
  const viewer = new Viewer(data, await choicesOf(data, projection), projection);
  await viewer.follow();
}

start().catch((error: Error) => message(`${error.message}: is the viewer still running?`));
