/**
 * Measure the viewer in Chromium: first picture, pans at 1:1, and the server's memory.
 *
 *     node bench/viewer.mjs SCENE MOSAIC
 *
 * PYTHON names the interpreter (default: ../.venv/bin/python), CHROMIUM the browser, PICTURES a folder for screenshots.
 * STEPS is the length of a pan in 128 pixels (default: 2).
 */

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";
import { view } from "../tests/browser/view.mjs";

const PANS = 20;
const STEPS = Number(process.env.STEPS ?? 2); // of 128 pixels, for each pan
const { address, process: server, stop } = await view(process.argv.slice(2));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
const memory = () => {
  const status = readFileSync(`/proc/${server.pid}/status`, "utf8");
  const of = (name) => Math.round(Number(status.match(new RegExp(`${name}:\\s+(\\d+)`))[1]) / 1000);
  return `${of("VmRSS")} MB, peak ${of("VmHWM")} MB`;
};
const picture = async (page, name) => process.env.PICTURES && page.screenshot({ path: `${process.env.PICTURES}/${name}.png` });
try {
  const page = await (await browser.newContext({ viewport: { width: 1440, height: 900 } })).newPage();
  const faults = [];
  page.on("console", (text) => text.type() === "error" && faults.push(text.text()));
  const started = performance.now();
  await page.goto(address);
  await page.waitForSelector("#map[data-state=complete]");
  console.log(`first picture: ${Math.round(performance.now() - started)} ms`);
  await picture(page, "first");
  console.log(`server: ${memory()}`);
  await page.waitForFunction(() => document.getElementById("message").hidden, null, { timeout: 120_000 });
  console.log(`radar overview: ${Math.round(performance.now() - started)} ms; server: ${memory()}`);
  await page.waitForTimeout(1500);
  await picture(page, "whole");
  await page.keyboard.press("1");
  await page.waitForTimeout(1500);
  await picture(page, "one");
  // A gap is the time from it to the complete picture, or the longest time between two frames, if that is longer.
  const gaps = [];
  for (let pan = 0; pan < PANS; pan++) {
    const gap = await page.evaluate(
      ([key, steps]) =>
        new Promise((resolve) => {
          const from = performance.now();
          let [last, longest, complete] = [from, 0, null];
          for (let step = 0; step < steps; step++) document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          const frame = (now) => {
            longest = Math.max(longest, now - last);
            last = now;
            const state = document.getElementById("map").dataset.state;
            if (complete === null && state === "complete" && now - from > 20) complete = now - from;
            if (complete !== null && now - from > 400) resolve(Math.max(complete, longest));
            else requestAnimationFrame(frame);
          };
          requestAnimationFrame(frame);
        }),
      [["ArrowRight", "ArrowDown"][pan % 2], STEPS],
    );
    gaps.push(Math.round(gap));
  }
  gaps.sort((a, b) => a - b);
  console.log(`pans of ${128 * STEPS} pixels at 1:1: median ${gaps[PANS / 2]} ms, worst ${gaps.at(-1)} ms (${gaps.join(" ")})`);
  console.log(`server: ${memory()}`);
  if (faults.length) console.log(faults.join("\n"));
} finally {
  await browser.close();
  stop();
}
