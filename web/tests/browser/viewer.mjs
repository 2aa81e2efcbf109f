/**
 * Use `sar2optical view` in Chromium as a user does: swipe, zoom, values, layers, keys, the HTML file.
 *
 * CHROMIUM names the browser's executable (default: /usr/bin/chromium). Files come from golden/viewer.py.
 */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { view } from "./view.mjs";

const here = new URL("../../", import.meta.url);
const path = (name) => new URL(name, here).pathname;
const results = path("test-results/");
const golden = (name) => path(`golden/out/viewer/${name}`);
const expected = JSON.parse(readFileSync(golden("values.json"), "utf8"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WAIT = { timeout: 30_000 };

mkdirSync(results, { recursive: true });

async function guest(browser, address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const faults = [];
  const hosts = new Set();
  context.on("request", (request) => hosts.add(new URL(request.url()).host || "local"));
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  await page.goto(address);
  return { context, page, faults, hosts };
}

async function complete(page) {
  await page.waitForTimeout(150); // until a change has begun to load
  await page.waitForSelector("#map[data-state=complete]", WAIT);
}

const ready = async (page) => {
  await complete(page);
  await page.waitForFunction(() => document.getElementById("message").hidden, null, WAIT);
  await complete(page);
};

const shot = (page, name) => page.screenshot({ path: `${results}viewer-${name}.png` });

async function accessible(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const bad = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  assert.deepEqual(bad.map(({ id, nodes }) => `${id}: ${nodes[0].html}`), [], `axe-core: ${where}`);
}

/** Colour of the map's canvas at a share of its width and height. */
const colour = (page, x, y) =>
  page.evaluate(([x, y]) => {
    const canvases = [...document.querySelectorAll("#map .ol-layer canvas")];
    const box = document.getElementById("map").getBoundingClientRect();
    const found = canvases.map((canvas) => {
      const at = canvas.getBoundingClientRect();
      const [scale, down] = [canvas.width / at.width, canvas.height / at.height];
      return [...canvas.getContext("2d").getImageData((box.x + x * box.width - at.x) * scale, (box.y + y * box.height - at.y) * down, 1, 1).data];
    });
    return found.findLast((rgba) => rgba[3]) ?? [0, 0, 0, 0];
  }, [x, y]);
const isGrey = ([red, green, blue, alpha]) => alpha > 0 && red === green && green === blue;
const resolution = async (page) => Number(await page.getAttribute("#map", "data-resolution"));

async function radarIsLeftAndMosaicRight({ page }) {
  await shot(page, "fit");
  await accessible(page, "whole picture");
  assert.ok(isGrey(await colour(page, 0.3, 0.5)), "the radar is grey");
  const right = await colour(page, 0.7, 0.5);
  assert.ok(right[3] && !isGrey(right), `the mosaic has colours: ${right}`);
}

async function theSwipeMoves({ page }) {
  const map = await page.locator("#map").boundingBox();
  const line = await page.locator("#line").boundingBox();
  await page.mouse.move(line.x + line.width / 2, map.y + 100);
  await page.mouse.down();
  await page.mouse.move(map.x + map.width * 0.2, map.y + 100, { steps: 5 });
  await page.mouse.up();
  assert.equal(await page.getAttribute("#line", "aria-valuenow"), "20");
  await complete(page);
  assert.ok(!isGrey(await colour(page, 0.3, 0.5)), "right of the line is the mosaic");
  await page.focus("#line");
  for (let press = 0; press < 5; press++) await page.keyboard.press("Shift+ArrowRight");
  assert.equal(await page.getAttribute("#line", "aria-valuenow"), "70");
  await complete(page);
  assert.ok(isGrey(await colour(page, 0.3, 0.5)), "left of the line is the radar");
  await page.keyboard.press("s");
  assert.equal(await page.isVisible("#line"), false);
  await complete(page);
  assert.ok(!isGrey(await colour(page, 0.3, 0.5)), "without the line, the mosaic covers the radar");
  await page.keyboard.press("s");
}

/** Move the cursor to pixels of the files, at 1:1 and magnified; the panel has their values. */
async function valuesAreThoseOfTheFiles({ page }) {
  for (const zoomed of [0, 3]) {
    for (const { row, col, radar, mosaic } of expected) {
      await page.keyboard.press("f");
      await complete(page);
      await page.keyboard.press("1");
      const place = async () => {
        const centre = (await page.textContent("#values")).match(/Row, column(\d+), (\d+)/);
        return centre.slice(1).map(Number);
      };
      await page.waitForFunction(() => document.getElementById("values").textContent.includes("Row, column"), null, WAIT);
      await page.waitForTimeout(200);
      let [r, c] = await place();
      const press = async (key, times) => {
        for (let k = 0; k < times; k++) await page.keyboard.press(key);
      };
      await press(r < row ? "ArrowDown" : "ArrowUp", Math.floor(Math.abs(row - r) / 128));
      await press(c < col ? "ArrowRight" : "ArrowLeft", Math.floor(Math.abs(col - c) / 128));
      await page.waitForTimeout(200);
      [r, c] = await place();
      await press("Shift+" + (r < row ? "ArrowDown" : "ArrowUp"), Math.abs(row - r));
      await press("Shift+" + (c < col ? "ArrowRight" : "ArrowLeft"), Math.abs(col - c));
      await press("+", zoomed);
      const map = await page.locator("#map").boundingBox();
      await page.mouse.move(map.x + map.width / 2 + 60, map.y + map.height / 2 + 60);
      await page.mouse.move(map.x + map.width / 2 + 0.5, map.y + map.height / 2 + 0.5);
      await page.waitForFunction(([row, col]) => document.getElementById("values").textContent.includes(`Row, column${row}, ${col}`), [row, col], WAIT);
      const text = await page.textContent("#values");
      assert.match(text, new RegExp(`Radar V[VH]${String(radar).replace(".", "\\.")} DN`));
      assert.ok(text.includes(`mosaic.tif, RGB${mosaic.join(" ")}`), `${text}: ${mosaic}`);
    }
    await complete(page);
    assert.ok(isGrey(await colour(page, 0.3, 0.5)), "the radar is left of the line");
    assert.ok(!isGrey(await colour(page, 0.9, 0.5)), "the mosaic is right of the line");
    await shot(page, zoomed ? "magnified" : "one-to-one");
  }
}

async function keysZoomAndPan({ page }) {
  await page.keyboard.press("1");
  await complete(page);
  assert.equal(await resolution(page), 1);
  await page.keyboard.press("+");
  await complete(page);
  assert.equal(await resolution(page), 0.5);
  await page.keyboard.press("-");
  await page.keyboard.press("-");
  await complete(page);
  assert.equal(await resolution(page), 2);
  for (let press = 0; press < 12; press++) await page.keyboard.press("+");
  await complete(page);
  assert.equal(await resolution(page), 1 / 32, "a pixel of the file is at most 32 pixels wide");
  await page.keyboard.press("f");
  await complete(page);
  assert.ok((await resolution(page)) > 1);
  await page.keyboard.press("?");
  assert.ok(await page.isVisible("#help"));
  await shot(page, "help");
  await accessible(page, "help");
  await page.keyboard.press("Escape");
  assert.equal(await page.isVisible("#help"), false);
  await page.keyboard.press("Escape");
  assert.equal(await page.isVisible("#panel"), false);
  await page.keyboard.press("p");
  assert.ok(await page.isVisible("#panel"));
}

async function maskAndWindowsAreShown({ page }) {
  await page.keyboard.press("m");
  await page.keyboard.press("g");
  await complete(page);
  await shot(page, "mask-windows");
  assert.equal(await page.getAttribute("#toggle-mask", "aria-pressed"), "true");
  const drawn = await page.evaluate(() => {
    const canvas = document.getElementById("windows");
    return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0);
  });
  assert.ok(drawn, "windows are drawn");
  assert.match(await page.textContent("#picture"), /of 256 x 256, overlap 64/);
  await page.keyboard.press("m");
  await page.keyboard.press("g");
}

async function truthAndDifferenceAreShown({ page }) {
  await page.selectOption("#left", { label: "Optical image truth.tif" });
  await complete(page);
  await shot(page, "truth");
  await page.selectOption("#right", { label: "Difference x 4: mosaic.tif" });
  await complete(page);
  await shot(page, "difference");
  const [red] = await colour(page, 0.85, 0.5);
  assert.ok(red >= 24 && red < 140, `the truth is 12 levels brighter, smoothed: ${red}`);
  await page.selectOption("#left", { label: "mosaic.tif" });
  await page.fill("#opacity", "50");
  await complete(page);
  assert.match(await page.textContent("#provenance"), /Note.*generated by a neural network/);
}

async function controlPointsAreShownInPixels(browser) {
  const server = await view([golden("gcp.tif"), golden("gcp-mosaic.tif")]);
  const { page, faults, context } = await guest(browser, server.address, { colorScheme: "dark" });
  await ready(page);
  await page.keyboard.press("1");
  await ready(page);
  await page.waitForFunction(() => document.getElementById("values").textContent.includes("Position"), null, WAIT);
  await shot(page, "gcp");
  await accessible(page, "control points, dark");
  const right = await colour(page, 0.7, 0.5);
  assert.ok(right[3] && !isGrey(right), `a mosaic in zstd has colours: ${right}`);
  assert.match(await page.textContent("#picture"), /9 control points/);
  assert.match(await page.textContent("#scale-text"), /\d+ m|km/);
  assert.deepEqual(faults, []);
  await context.close();
  assert.equal(await server.stop(), 0, "Ctrl-C ends with exit code 0");
}

async function aPhoneShowsIt(browser, address) {
  const { page, faults, context } = await guest(browser, address, { viewport: { width: 390, height: 844 }, hasTouch: true });
  await ready(page);
  await shot(page, "phone");
  await accessible(page, "phone");
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(wider <= 0, `nothing is wider than the screen: ${wider}`);
  await page.tap("#map", { position: { x: 60, y: 160 } }); // beside the line
  await page.waitForFunction(() => document.getElementById("values").textContent.includes("RGB"), null, WAIT);
  assert.deepEqual(faults, []);
  await context.close();
}

async function theHtmlFileStandsAlone(browser) {
  const { page, faults, hosts, context } = await guest(browser, `file://${golden("page.html")}`, { offline: true });
  await page.waitForFunction(() => [...document.images].every((image) => image.complete && image.naturalWidth));
  const box = await page.locator("#picture").boundingBox();
  await page.mouse.click(box.x + box.width * 0.25, box.y + box.height / 2);
  const at = parseFloat(await page.locator("#picture").evaluate((picture) => picture.style.getPropertyValue("--at")));
  assert.ok(Math.abs(at - 25) < 1, `the line follows the pointer: ${at}`);
  await page.screenshot({ path: `${results}viewer-html.png`, fullPage: true });
  await accessible(page, "HTML file");
  await page.selectOption("#which", { label: "Optical image truth.tif" });
  assert.equal(await page.textContent("#name"), "Optical image truth.tif");
  assert.deepEqual([...hosts], ["local"], "no host is asked");
  assert.deepEqual(faults, []);
  await context.close();
}

const server = await view([golden("scene.tif"), golden("mosaic.tif"), "--truth", golden("truth.tif")]);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
});
try {
  const first = await guest(browser, server.address);
  await ready(first.page);
  const steps = [radarIsLeftAndMosaicRight, theSwipeMoves, valuesAreThoseOfTheFiles, keysZoomAndPan, maskAndWindowsAreShown, truthAndDifferenceAreShown];
  for (const step of steps) {
    const started = performance.now();
    await step(first);
    console.log(`ok viewer: ${step.name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  }
  assert.deepEqual(first.faults, [], "the console has no errors");
  assert.deepEqual([...first.hosts].filter((host) => host !== "local"), [new URL(server.address).host], "no other host is asked");
  await aPhoneShowsIt(browser, server.address);
  await controlPointsAreShownInPixels(browser);
  await theHtmlFileStandsAlone(browser);
  console.log("ok viewer: phone, control points, HTML file");
} finally {
  await browser.close();
  await server.stop();
}
