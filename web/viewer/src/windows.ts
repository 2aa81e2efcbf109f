/** Draw the outlines of the run's windows over the map. */

import type OlMap from "ol/Map";
import type { WindowGrid } from "./data";

const SMALLEST = 10;
const COLOURS = ["#ffd60a", "#00e5ff"];

export function drawWindows(map: OlMap, canvas: HTMLCanvasElement, grid: WindowGrid, shape: readonly [number, number]): boolean {
  const [width, height] = map.getSize() ?? [0, 0];
  const ratio = devicePixelRatio;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const view = map.getView();
  const resolution = view.getResolution()!;
  if (grid.window / resolution < SMALLEST) return false;
  const context = canvas.getContext("2d")!;
  context.scale(ratio, ratio);
  context.beginPath();
  const [x, y] = view.getCenter()!;
  const left = (col: number) => (col - x) / resolution + width / 2;
  const top = (row: number) => (row + y) / resolution + height / 2;
  context.rect(left(0), top(0), shape[1] / resolution, shape[0] / resolution);
  context.clip(); // windows reach beyond a mosaic that is cut
  const side = grid.window / resolution;
  grid.rows.forEach((row, r) => {
    if (top(row) > height || top(row) + side < 0) return;
    grid.cols.forEach((col, c) => {
      if (left(col) > width || left(col) + side < 0) return;
      context.strokeStyle = COLOURS[(r + c) % 2];
      context.strokeRect(left(col) + 0.5, top(row) + 0.5, side - 1, side - 1);
    });
  });
  return true;
}
