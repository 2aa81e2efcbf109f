/** Layers of the map in pixels of the grid: x is the column, y is minus the row. */

import TileLayer from "ol/layer/Tile";
import Projection from "ol/proj/Projection";
import DataTile from "ol/source/DataTile";
import TileGrid from "ol/tilegrid/TileGrid";
import { Ahead, type Load } from "./ahead";
import type { Cog } from "./cog";
import type { PageData } from "./data";

const NOT_YET = 202;

/** Tiles of pixels: squares from 1:1 on, averages of their neighbours where the picture is reduced. */
class Pixels extends DataTile {
  reduced = false;
  ahead!: Ahead;

  override getInterpolate(): boolean {
    return this.reduced;
  }

  /** Load all tiles again; `refresh` of ol 10.11 leaves those in its cache. */
  renew(): void {
    this.ahead.clear();
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

function layerOf(data: PageData, projection: Projection, last: number, side: number, load: Load): PixelLayer {
  const tileGrid = gridOf(data, last, side);
  const ahead = new Ahead(tileGrid, load);
  const source = new Pixels({
    projection,
    tileGrid,
    loader: (z, x, y) => ahead.get(z, x, y),
    transition: 0,
    wrapX: false,
  });
  source.ahead = ahead;
  const layer: PixelLayer = new TileLayer({ source, cacheSize: 256 });
  layer.on("prerender", ({ frameState }) => {
    source.reduced = frameState!.viewState.resolution > 1.001; // in braces: a result of false would stop the event
  });
  return layer;
}

/** A layer of tiles that the server renders. A tile that it cannot render yet is blank until `renew`. */
export function served(data: PageData, projection: Projection, tiles: string): PixelLayer {
  return layerOf(data, projection, data.shapes.length - 1, data.tile, async (z, x, y) => {
    const response = await fetch(`${tiles}/${z}/${x}/${y}`);
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
