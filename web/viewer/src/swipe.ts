/** The line between left and right: clips layers, and moves with mouse, touch and keys. */

import type OlMap from "ol/Map";
import { getRenderPixel } from "ol/render";
import type { PixelLayer } from "./layers";

export class Swipe {
  on = true;
  /** Position of the line, 0 to 1 of the map's width. */
  at = 0.5;

  constructor(
    private readonly map: OlMap,
    private readonly line: HTMLElement,
  ) {
    line.addEventListener("pointerdown", (event) => {
      line.setPointerCapture(event.pointerId);
      event.stopPropagation();
    });
    line.addEventListener("pointermove", (event) => {
      if (!line.hasPointerCapture(event.pointerId)) return;
      const box = map.getTargetElement()!.getBoundingClientRect();
      this.move((event.clientX - box.left) / box.width);
    });
    line.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.1 : 0.01;
      const to: Record<string, number> = { ArrowLeft: this.at - step, ArrowRight: this.at + step, Home: 0, End: 1 };
      if (!(event.key in to)) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(to[event.key]);
    });
    this.move(0.5);
  }

  move(at: number): void {
    this.at = Math.min(Math.max(at, 0), 1);
    this.line.style.left = `${this.at * 100}%`;
    this.line.setAttribute("aria-valuenow", String(Math.round(this.at * 100)));
    this.map.render();
  }

  toggle(): void {
    this.on = !this.on;
    this.line.hidden = !this.on;
    this.map.render();
  }

  /** Draw a layer on one side of the line only, or on both; without a line, everything is to its right. */
  clip(layer: PixelLayer, sideOf: () => "left" | "right" | "both"): void {
    layer.on("prerender", (event) => {
      const context = event.context as CanvasRenderingContext2D;
      context.save();
      const side = sideOf();
      if (side === "both") return;
      const [width, height] = this.map.getSize()!;
      const split = this.on ? this.at * width : 0;
      const [from, to] = side === "left" ? [0, split] : [split, width];
      const corners = [[from, 0], [to, 0], [to, height], [from, height]].map((corner) => getRenderPixel(event, corner));
      context.beginPath();
      corners.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.clip();
    });
    layer.on("postrender", (event) => (event.context as CanvasRenderingContext2D).restore());
  }
}
