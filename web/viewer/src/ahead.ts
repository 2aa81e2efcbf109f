/** Keep pictures of tiles, and load those around the map while nothing else is to be done: pans then find them. */

import { buffer, getCenter, type Extent } from "ol/extent";
import type TileGrid from "ol/tilegrid/TileGrid";

export type Picture = ImageBitmap | HTMLCanvasElement;
export type Load = (z: number, x: number, y: number) => Promise<Picture>;

/** Pixels of the screen around the map. */
const AROUND = 512;
/** Bytes of the pictures that are kept. */
const KEPT = 96e6;

export class Ahead {
  private readonly pictures = new Map<string, Promise<Picture>>();
  private turn = 0;

  constructor(
    private readonly grid: TileGrid,
    private readonly load: Load,
  ) {}

  /** Load a tile, or take it from the ones that are kept; the oldest are forgotten. */
  get(z: number, x: number, y: number): Promise<Picture> {
    const key = `${z}/${x}/${y}`;
    const found = this.pictures.get(key) ?? this.load(z, x, y);
    this.pictures.delete(key); // to the end: the first one is the oldest
    this.pictures.set(key, found);
    found.catch(() => this.pictures.delete(key));
    const side = Number(this.grid.getTileSize(z));
    for (const old of this.pictures.keys()) {
      if (this.pictures.size * side * side * 4 <= KEPT) break;
      this.pictures.delete(old);
    }
    return found;
  }

  /** Load the tiles around an extent, one after the other, until `stop`. */
  async around(extent: Extent, resolution: number): Promise<void> {
    const turn = ++this.turn;
    const z = this.grid.getZForResolution(resolution);
    const limits = this.grid.getFullTileRange(z)!;
    const wanted: [number, number][] = [];
    this.grid.forEachTileCoord(buffer(extent, AROUND * resolution), z, ([, x, y]) => void (limits.containsXY(x, y) && wanted.push([x, y])));
    const [, column, row] = this.grid.getTileCoordForCoordAndZ(getCenter(extent), z);
    const distance = ([x, y]: [number, number]) => Math.max(Math.abs(x - column), Math.abs(y - row));
    wanted.sort((a, b) => distance(a) - distance(b));
    for (const [x, y] of wanted) {
      if (turn !== this.turn) return;
      await this.get(z, x, y).catch(() => undefined); // shown when the map itself needs it
    }
  }

  stop(): void {
    this.turn++;
  }

  clear(): void {
    this.stop();
    this.pictures.clear();
  }
}
