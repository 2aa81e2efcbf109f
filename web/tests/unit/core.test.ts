import { describe, expect, test } from "vitest";
import { axisWeights, Blender } from "../../src/core/blend";
import { chooseStretch, decode, encoder, encodingFor } from "../../src/core/encoder";
import { mirrorInvalid } from "../../src/core/fill";
import { readOnnx, signatureOf } from "../../src/core/onnx";
import { selfTestInput } from "../../src/core/selftest";
import { UNITS, parseBound, signatureFromJson, signatureOfChips, typedStretch } from "../../src/core/signature";
import { DEFAULT_OVERLAP, touching, windowGrid } from "../../src/core/windows";
import { LEAST_RUN, SAMPLE_LEAST, SAMPLE_LIMIT, WHOLE_UP_TO } from "../../src/input/sampling";
import { floats, golden, largestDifference } from "./golden";
import { readFileSync } from "node:fs";

test("constants are Python's", () => {
  const constants = { overlap: DEFAULT_OVERLAP, wholeUpTo: WHOLE_UP_TO, sampleLimit: SAMPLE_LIMIT, sampleLeast: SAMPLE_LEAST, leastRun: LEAST_RUN, units: UNITS };
  expect(constants).toEqual(golden.constants);
});

describe("encode and decode", () => {
  test.each(golden.encode as any[])("$source as $target has Python's values", ({ source, target, low, high, values, encoded }) => {
    const found = floats(values).map(encoder({ source, target, low, high }));
    expect(largestDifference(found, floats(encoded))).toBeLessThan(2e-6);
  });

  test.each(golden.resolve as any[])("the stretch of $unit for $target is Python's", ({ unit, signature, stretch, sample, low, high, target }) => {
    const found = encodingFor(unit, floats(sample), signatureFromJson(signature, "m"), typedStretch(stretch));
    expect(found.target).toBe(target);
    expect(Math.abs(found.low - low)).toBeLessThanOrEqual(1e-6 * Math.abs(low));
    expect(Math.abs(found.high - high)).toBeLessThanOrEqual(1e-6 * Math.abs(high));
  });

  test("decoded bytes are Python's", () => {
    expect([...floats(golden.decode.values)].map(decode)).toEqual(golden.decode.bytes);
  });

  test("units that cannot be converted are refused with a remedy", () => {
    const fixed = { ...signatureOfChips("m", 1, 256), unit: "db" as const, stretch: [typedStretch("-25 0")!] };
    expect(() => chooseStretch("power", signatureOfChips("m", 3, 256), null)).toThrow("give a stretch, such as p1 p99");
    expect(() => chooseStretch("dn", fixed, null)).toThrow("uncalibrated DN");
    expect(chooseStretch("power", fixed, null)).toEqual(["db", fixed.stretch[0]]);
  });

  test("a bound is a number or a percentile", () => {
    expect(parseBound("p99")).toEqual({ at: 99, percentile: true });
    for (const text of ["", "p", "p101", "x"]) expect(() => parseBound(text)).toThrow();
    expect(() => typedStretch("5 1")).toThrow("low end");
  });
});

describe("windows", () => {
  test.each(golden.grids as any[])("the grid of $shape is Python's", ({ shape, window, overlap, rows, cols, weights }) => {
    const grid = windowGrid(shape[0], shape[1], window, overlap);
    expect(grid.rows).toEqual(rows);
    expect(grid.cols).toEqual(cols);
    expect(largestDifference(axisWeights(grid.cols, window).flatMap((some) => [...some]), floats(weights))).toBeLessThan(1e-7);
  });

  test("only windows that touch an area are chosen", () => {
    expect(touching([0, 10, 20], 16, 16, 20)).toEqual([1]);
    expect(touching([0, 10, 20], 16, 15, 21)).toEqual([0, 1, 2]);
  });

  const { shape, window, overlap, images, mosaic } = golden.blend;
  const grid = windowGrid(shape[0], shape[1], window, overlap);
  test.each([
    { rows: [0, 37], cols: [0, 45] },
    { rows: [9, 30], cols: [13, 29] },
  ] as const)("an area of the blend has Python's pixels: %j", (area) => {
    const blender = new Blender(grid, area, 1);
    const columns = area.cols[1] - area.cols[0];
    const found = new Float32Array((area.rows[1] - area.rows[0]) * columns);
    for (let row = 0; row < grid.rows.length; row++) {
      for (const col of touching(grid.cols, window, area.cols[0], area.cols[1])) blender.add(row, col, floats(images[row * grid.cols.length + col]));
      const strip = blender.finish(row);
      if (strip) found.set(strip.image, (strip.start - area.rows[0]) * columns);
    }
    const expected = found.map((_, at) => mosaic[(area.rows[0] + Math.floor(at / columns)) * shape[1] + area.cols[0] + (at % columns)]);
    expect(largestDifference(found, expected)).toBeLessThan(1e-6);
  });
});

test.each(golden.fill as any[])("invalid pixels are filled as in Python (case %#)", ({ side, image, valid, filled }) => {
  const found = floats(image);
  mirrorInvalid(found, Uint8Array.from(valid), side);
  expect([...found]).toEqual([...floats(filled)]);
});

describe("models", () => {
  const bundled = new Uint8Array(readFileSync(new URL("../../public/generator.onnx", import.meta.url)));

  test("the bundled generator's signature is in its metadata", () => {
    const model = readOnnx(bundled, "generator.onnx");
    expect(signatureOf(model, "generator.onnx")).toMatchObject({ unit: "db", window: 256, channels: 1, bands: ["VV|VH"] });
    expect(model.open).toEqual(new Map([[0, "N"], [2, "H"], [3, "W"]]));
  });

  test("another file is refused", () => {
    expect(() => readOnnx(bundled.subarray(0, 1000), "cut.onnx")).toThrow("cut.onnx: is not an ONNX model");
    expect(() => readOnnx(new Uint8Array(0), "empty.onnx")).toThrow("has no input");
    expect(() => signatureOf({ metadata: new Map(), input: "x", shape: [1, 10], open: new Map() }, "x.onnx")).toThrow("no signature");
  });

  test("a published generator without a signature takes bytes", () => {
    const model = { metadata: new Map(), input: "x", shape: [1, 3, 256, 256], open: new Map() };
    expect(signatureOf(model, "x.onnx")).toMatchObject({ unit: "byte", channels: 3, window: 256 });
  });

  test("the input of the self-test is Python's", () => {
    const chip = selfTestInput(signatureOfChips("m", 1, 256));
    const found = Array.from({ length: 7 * 7 }, (_, k) => chip[Math.floor(k / 7) * 37 * 256 + (k % 7) * 41]);
    expect(largestDifference(found, floats(golden.selfTest))).toBeLessThan(1e-6);
  });
});
