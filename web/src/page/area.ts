/** Choose an area of a scene: by dragging on the overview, or in number fields. */

import type { Area } from "../core/windows";
import { element, input } from "./dom";

/** Side of the area that is chosen first, in pixels. */
const FIRST_SIDE = 1024;

const FIELDS = ["area-row", "area-col", "area-height", "area-width"] as const;
const clamp = (value: number, low: number, high: number) => Math.max(low, Math.min(high, value));

export class AreaChoice {
  private height = 1;
  private width = 1;

  constructor(private readonly onChange: () => void) {
    for (const id of FIELDS) input(id).addEventListener("input", () => this.changed());
    this.dragging();
  }

  /** Begin with a scene: the whole of a small one, else the middle. */
  begin(height: number, width: number): void {
    Object.assign(this, { height, width });
    const side = [height, width].map((length) => Math.min(length, FIRST_SIDE));
    this.write(Math.floor((height - side[0]) / 2), Math.floor((width - side[1]) / 2), side[0], side[1]);
  }

  /** The chosen area; null where the fields hold none. */
  get area(): Area | null {
    const [row, col, height, width] = FIELDS.map((id) => input(id).valueAsNumber);
    const whole = [row, col, height, width].every(Number.isInteger);
    const inside = row >= 0 && col >= 0 && height >= 1 && width >= 1 && row + height <= this.height && col + width <= this.width;
    return whole && inside ? { rows: [row, row + height], cols: [col, col + width] } : null;
  }

  private write(...values: number[]): void {
    FIELDS.forEach((id, k) => (input(id).value = String(values[k])));
    this.changed();
  }

  private changed(): void {
    const { area } = this;
    const box = element("selection");
    box.hidden = area === null;
    for (const id of FIELDS) {
      input(id).setCustomValidity(area ? "" : `Choose an area inside the scene of ${this.height} rows and ${this.width} columns.`);
    }
    if (area) {
      const percent = (value: number, of: number) => `${(100 * value) / of}%`;
      box.style.top = percent(area.rows[0], this.height);
      box.style.left = percent(area.cols[0], this.width);
      box.style.height = percent(area.rows[1] - area.rows[0], this.height);
      box.style.width = percent(area.cols[1] - area.cols[0], this.width);
    }
    this.onChange();
  }

  private dragging(): void {
    const box = element("overview-box");
    let start: [number, number] | null = null;
    const place = (event: PointerEvent): [number, number] => {
      const { top, left, height, width } = box.getBoundingClientRect();
      return [
        Math.round(clamp((event.clientY - top) / height, 0, 1) * this.height),
        Math.round(clamp((event.clientX - left) / width, 0, 1) * this.width),
      ];
    };
    box.addEventListener("pointerdown", (event) => {
      start = place(event);
      box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => {
      if (!start) return;
      const end = place(event);
      const [row, col] = [Math.min(start[0], end[0]), Math.min(start[1], end[1])];
      const [height, width] = [Math.abs(start[0] - end[0]), Math.abs(start[1] - end[1])];
      if (height && width) this.write(row, col, height, width);
    });
    for (const kind of ["pointerup", "pointercancel"] as const) box.addEventListener(kind, () => (start = null));
  }
}
