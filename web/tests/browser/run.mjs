/**
 * Use the built site in Chromium as a visitor does; save what it gives into test-results/ for golden/compare.py.
 *
 * CHROMIUM names the browser's executable (default: /usr/bin/chromium).
 */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { serve } from "./server.mjs";

const here = new URL("../../", import.meta.url);
const path = (name) => new URL(name, here).pathname;
const results = path("test-results/");
const golden = (name) => path(`golden/out/${name}`);
const { box } = JSON.parse(readFileSync(golden("golden.json"), "utf8"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WAIT = { timeout: 60_000 };

rmSync(results, { recursive: true, force: true });
mkdirSync(results);

/** Open the site in a new context; faults of the page end the test. */
async function visitor(browser, address, options = {}) {
  const context = await browser.newContext({ acceptDownloads: true, bypassCSP: false, ...options });
  const faults = [];
  const hosts = new Set();
  context.on("request", (request) => hosts.add(new URL(request.url()).host || "local"));
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  await page.goto(address);
  return { context, page, faults, hosts };
}

/** Drop a file on the page, as from a file manager. */
async function drop(page, file, name) {
  const transfer = await page.evaluateHandle(
    ([base64, called]) => {
      const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], called));
      return data;
    },
    [readFileSync(file).toString("base64"), name],
  );
  await page.dispatchEvent("#drop", "drop", { dataTransfer: transfer });
}

const finished = (page) => page.locator("#save-png:enabled").waitFor(WAIT);

async function save(page, button, name) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(button)]);
  await download.saveAs(`${results}${name}`);
  return download.suggestedFilename();
}

async function accessible(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const bad = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  assert.deepEqual(bad.map(({ id, nodes }) => `${id}: ${nodes[0].html}`), [], `axe-core: ${where}`);
}

async function chipIsTranslatedAtOnce({ page }) {
  await drop(page, golden("chip.png"), "chip.png");
  await finished(page);
  await page.screenshot({ path: `${results}chip.png`, fullPage: true });
  await accessible(page, "chip");
  assert.equal(await save(page, "#save-png", "chip.saved.png"), "chip-optical.png");
  await page.click("#again");
}

async function anAreaOfAGeoTiffIsTranslated({ page }) {
  await drop(page, golden("simulated.tif"), "simulated.tif");
  await finished(page);
  await save(page, "#save-tif", "simulated.saved.tif");
  await page.click("#change");
  const overview = await page.locator("#overview-box").boundingBox();
  await page.mouse.move(overview.x + 20, overview.y + 30);
  await page.mouse.down();
  await page.mouse.move(overview.x + 150, overview.y + 120, { steps: 4 });
  await page.mouse.up();
  assert.ok(Number(await page.inputValue("#area-width")) < 300, "dragging chooses a smaller area");
  const values = { row: box[0], col: box[2], height: box[1] - box[0], width: box[3] - box[2] };
  for (const [field, value] of Object.entries(values)) await page.fill(`#area-${field}`, String(value));
  assert.equal(await page.inputValue("#unit"), "dn");
  await page.screenshot({ path: `${results}area.png`, fullPage: true });
  await accessible(page, "area");
  await page.click("#run");
  await finished(page);
  await page.screenshot({ path: `${results}geotiff.png`, fullPage: true });
  await save(page, "#save-tif", "area.saved.tif");
  await save(page, "#save-png", "area.saved.png");
}

async function theSwipeMoves({ page }) {
  const at = () => page.locator("#viewer").evaluate((viewer) => viewer.style.getPropertyValue("--at"));
  const viewer = await page.locator("#viewer").boundingBox();
  await page.mouse.click(viewer.x + viewer.width * 0.25, viewer.y + viewer.height / 2);
  assert.ok(Math.abs(parseFloat(await at()) - 25) <= 2, `the line follows the pointer: ${await at()}`);
  await page.focus("#swipe");
  const before = parseFloat(await at());
  for (let press = 0; press < 5; press++) await page.keyboard.press("ArrowRight");
  assert.equal(parseFloat(await at()), before + 5);
  await page.keyboard.press("Home");
  assert.equal(await at(), "0%");
  await page.click("#again");
}

async function aRunIsStopped({ page }) {
  await drop(page, golden("simulated.tif"), "simulated.tif");
  await page.click("#stop");
  await page.locator("#scene").waitFor(WAIT);
  assert.equal(await page.isVisible("#busy"), false);
  await page.click("#back");
}

/** Keyboard only: the file says nothing of its unit, so the page asks. */
async function theUnitIsAskedFor({ page }) {
  await drop(page, golden("unnamed.tif"), "unnamed.tif");
  await page.locator("#scene").waitFor(WAIT);
  assert.equal(await page.inputValue("#unit"), "");
  assert.match(await page.textContent("#unit-note"), /could be several units/);
  await page.focus("#run");
  await page.keyboard.press("Enter");
  assert.equal(await page.isVisible("#result"), false, "without a unit nothing runs");
  await page.screenshot({ path: `${results}question.png`, fullPage: true });
  await accessible(page, "question");
  await page.selectOption("#unit", "power");
  await page.focus("#run");
  await page.keyboard.press("Enter");
  await finished(page);
  await save(page, "#save-tif", "unnamed.saved.tif");
  await page.click("#again");
}

async function anImpossibleUnitIsRefused({ page }) {
  await drop(page, golden("packed.tif"), "packed.tif");
  await finished(page);
  await save(page, "#save-tif", "packed.saved.tif");
  await page.click("#again");
  await drop(page, golden("decibels.tif"), "decibels.tif");
  await finished(page);
  await page.click("#change");
  assert.equal(await page.inputValue("#band"), "1", "VV is chosen by its name");
  await page.selectOption("#unit", "power");
  await page.click("#run");
  await page.locator("#error").waitFor(WAIT);
  assert.match(await page.textContent("#error"), /not possible in power/);
  await page.screenshot({ path: `${results}refused.png`, fullPage: true });
  await accessible(page, "refused");
  await page.click("#back");
}

/** The unit of the file before is not kept: with a wrong unit, the picture looks plausible. */
async function theBandIsAskedForAndThenTheUnit({ page }) {
  await drop(page, golden("bands.tif"), "bands.tif");
  await page.locator("#scene").waitFor(WAIT);
  assert.equal(await page.inputValue("#unit"), "");
  await page.selectOption("#unit", "dn");
  await page.click("#run");
  assert.equal(await page.isVisible("#result"), false, "without a band nothing runs");
  await page.click("#back");
  await drop(page, golden("bands.tif"), "bands.tif");
  await page.locator("#scene").waitFor(WAIT);
  await page.selectOption("#band", "2");
  await page.getByText("could be several units").waitFor(WAIT);
  assert.equal(await page.inputValue("#unit"), "");
  await page.click("#back");
}

async function whatIsNoSceneIsRefused({ page }) {
  await drop(page, path("package.json"), "package.json");
  await page.locator("#error").waitFor(WAIT);
  assert.match(await page.textContent("#error"), /^package\.json: is neither a GeoTIFF nor a PNG/);
  await drop(page, path("package.json"), "model.onnx");
  await page.getByText("is not an ONNX model").waitFor(WAIT);
}

/** A generator without a signature takes bytes; its picture is that of the model. */
async function anotherModelIsUsed({ page }) {
  await drop(page, golden("published.onnx"), "published.onnx");
  await page.getByText("Model: published.onnx").waitFor(WAIT);
  assert.match(await page.textContent("#model"), /bytes, 0 to 255, are assumed/);
  await drop(page, golden("chip.png"), "chip.png");
  await finished(page);
  await save(page, "#save-png", "published.saved.png");
  await page.click("#again");
  await page.click("#examples button >> nth=0");
  await page.locator("#error").waitFor(WAIT);
  assert.match(await page.textContent("#error"), /give a stretch, such as p1 p99/);
}

async function itWorksOffline({ page, context }) {
  await page.evaluate(() => navigator.serviceWorker.ready);
  await context.setOffline(true);
  await page.reload();
  await page.click("#examples button >> nth=1");
  await finished(page);
  await page.screenshot({ path: `${results}offline.png`, fullPage: true });
}

async function aPhoneShowsIt(browser, address) {
  for (const colorScheme of ["light", "dark"]) {
    const { page, context } = await visitor(browser, address, { viewport: { width: 390, height: 844 }, colorScheme });
    await page.getByText("Model: ").waitFor(WAIT);
    await page.screenshot({ path: `${results}phone-${colorScheme}.png`, fullPage: true });
    await page.click("#examples button >> nth=2");
    await finished(page);
    await page.screenshot({ path: `${results}phone-result-${colorScheme}.png`, fullPage: true });
    await accessible(page, `phone, ${colorScheme}`);
    const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wider <= 0, `nothing is wider than the screen: ${wider}`);
    await context.close();
  }
}

const { address, stop } = await serve(path("dist"), "/any/path/");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
});
try {
  const guest = await visitor(browser, address, { viewport: { width: 1280, height: 800 } });
  await guest.page.getByText("Model: ").waitFor(WAIT);
  await guest.page.screenshot({ path: `${results}first.png`, fullPage: true });
  await accessible(guest.page, "first page");
  const steps = [
    chipIsTranslatedAtOnce,
    anAreaOfAGeoTiffIsTranslated,
    theSwipeMoves,
    aRunIsStopped,
    theUnitIsAskedFor,
    anImpossibleUnitIsRefused,
    theBandIsAskedForAndThenTheUnit,
    whatIsNoSceneIsRefused,
    anotherModelIsUsed,
    itWorksOffline,
  ];
  for (const step of steps) {
    const started = performance.now();
    await step(guest);
    console.log(`ok ${step.name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  }
  assert.deepEqual(guest.faults, [], "the console has no errors");
  assert.deepEqual([...guest.hosts].filter((host) => host !== "local"), [new URL(address).host], "no other host is asked");
  await aPhoneShowsIt(browser, address);
  console.log("ok on a phone");
} finally {
  await browser.close();
  stop();
}
