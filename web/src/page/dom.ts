/** Find elements of the page by id, and paint. */

import { percentile } from "../core/encoder";
import type { Overview } from "../input/scene";

export function element<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found as T;
}

export const input = (id: string) => element<HTMLInputElement>(id);
export const select = (id: string) => element<HTMLSelectElement>(id);

export function show(id: string, shown: boolean): void {
  element(id).hidden = !shown;
}

export function context(id: string): CanvasRenderingContext2D {
  return element<HTMLCanvasElement>(id).getContext("2d")!;
}

export function sized(id: string, height: number, width: number): void {
  Object.assign(element<HTMLCanvasElement>(id), { height, width });
}

/** Paint an overview between its 2nd and 98th percentile; of values that are never below 0, the square root. */
export function paintOverview(id: string, { height, width, values, valid }: Overview): void {
  const there = values.filter((_, at) => valid[at]).sort();
  const curve = there.length && there[0] >= 0 ? Math.sqrt : (value: number) => value;
  const [low, high] = [2, 98].map((at) => curve(percentile(there, at)));
  const rgba = new Uint8ClampedArray(4 * values.length);
  values.forEach((value, at) => {
    if (valid[at]) rgba.fill((255 * (curve(value) - low)) / Math.max(high - low, 1e-12), 4 * at, 4 * at + 3);
    rgba[4 * at + 3] = 255;
  });
  sized(id, height, width);
  context(id).putImageData(new ImageData(rgba, width, height), 0, 0);
}

/** Offer a file for saving. */
export function download(blob: Blob, name: string): void {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
