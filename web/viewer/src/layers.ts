/** Layers of the map in pixels of the grid: x is the column, y is minus the row. */

import TileLayer from "ol/layer/Tile";
import Projection from "ol/proj/Projection";
import DataTile from "ol/source/DataTile";
import TileGrid from "ol/tilegrid/TileGrid";
import type { Cog } from "./cog";
import type { PageData } from "./data";

const NOT_YET = 202;

/** Tiles of pixels: squares from 1:1 on, averages of their neighbours where the picture is reduced. */
class Pixels extends DataTile {
  reduced = false;

  override getInterpolate(): boolean {
    return this.reduced;
  }

  /** Load all tiles again; `refresh` of ol 10.11 leaves those in its cache. */
  renew(): void {
    this.setKey(String(performance.now()));
  }
}

export type PixelLayer = TileLayer<Pixels>;

/** Projection of a grid of pixels. */
export function pixels([height, width]: readonly [number, number]): Projection {
  return new Projection({ code: "PIXELS", units: "pixels", extent: [0, -height, width, 0] });
}

function gridOf(data: PageData, last: number, side: number): TileGrid {
  const [height, width] = data.shape;
  const resolutions = Array.from({ length: last + 1 }, (_, z) => 2 ** (last - z));
  return new TileGrid({ extent: [0, -height, width, 0], origin: [0, 0], resolutions, tileSize: side });
}

type Load = (z: number, x: number, y: number, signal: AbortSignal) => Promise<ImageBitmap | HTMLCanvasElement>;

function layerOf(data: PageData, projection: Projection, last: number, side: number, load: Load): PixelLayer {
  const source = new Pixels({
    projection,
    tileGrid: gridOf(data, last, side),
    loader: (z, x, y, { signal }) => load(z, x, y, signal),
    transition: 0,
    wrapX: false,
  });
  const layer: PixelLayer = new TileLayer({ source, cacheSize: 256 });
  layer.on("prerender", ({ frameState }) => {
    source.reduced = frameState!.viewState.resolution > 1.001; // in braces: a result of false would stop the event
  });
  return layer;
}

/** A layer of tiles that the server renders. A tile that it cannot render yet is blank until `renew`. */
export function served(data: PageData, projection: Projection, tiles: string): PixelLayer {
  return layerOf(data, projection, data.shapes.length - 1, data.tile, async (z, x, y, signal) => {
    const response = await fetch(`${tiles}/${z}/${x}/${y}`, { signal });
    if (response.status === NOT_YET) return document.createElement("canvas");
    if (!response.ok) throw new Error(await response.text());
    return createImageBitmap(await response.blob());
  });
}

/** A layer of a mosaic that the page reads itself. */
export function ofFile(data: PageData, projection: Projection, cog: Cog): PixelLayer {
  const { last, block } = cog;
  return layerOf(data, projection, last, block, (z, x, y) => cog.read(last - z, x, y));
}
