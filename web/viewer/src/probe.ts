/** Values of the pixel under the cursor, or at the centre after a key: read from the files by the server. */

import type OlMap from "ol/Map";
import type MapBrowserEvent from "ol/MapBrowserEvent";
import { fetchJson, type PageData, type Values } from "./data";
import { element, fill, message, showValues } from "./panel";

export class Probe {
  private wanted: [number, number] | null = null;
  private asking = false;

  constructor(
    private readonly map: OlMap,
    private readonly data: PageData,
  ) {
    fill("values", [["Pixel", "point at the picture, or tap it"]]);
    // Clicks too: a touch screen has no pointer that hovers.
    map.on(["pointermove", "click"], (event) => {
      element("cross").hidden = true;
      this.at((event as MapBrowserEvent).coordinate as [number, number]);
    });
  }

  /** Show the pixel at the centre of the map, with a cross. */
  atCentre(): void {
    element("cross").hidden = false;
    this.at(this.map.getView().getCenter() as [number, number]);
  }

  private at([x, y]: [number, number]): void {
    const [row, col] = [Math.floor(-y), Math.floor(x)];
    const [height, width] = this.data.shape;
    if (row < 0 || col < 0 || row >= height || col >= width) {
      this.wanted = null;
      fill("values", [["Pixel", "outside the picture"]]);
      return;
    }
    this.wanted = [row, col];
    if (!this.asking) void this.ask();
  }

  /** Ask for one pixel at a time; those that the cursor has left meanwhile are skipped. */
  private async ask(): Promise<void> {
    this.asking = true;
    try {
      while (this.wanted) {
        const [row, col] = this.wanted;
        this.wanted = null;
        showValues(this.data, await fetchJson<Values>(`values.json?row=${row}&col=${col}`));
      }
    } catch (error) {
      message(`${(error as Error).message}: is the viewer still running?`);
    } finally {
      this.asking = false;
    }
  }
}
