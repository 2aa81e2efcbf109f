import { createHash } from "node:crypto";
import { cpSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { defineConfig, type Plugin } from "vite";
import { licensesOf, shipped } from "./licenses";

const ORT = "node_modules/onnxruntime-web/dist";
/** Files of ONNX Runtime Web by backend. Those of WebGPU are cached when they are used, as few visitors need them. */
const WASM = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
const WEBGPU = ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"];

function filesIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesIn(path) : [path];
  });
}

/** Copy ONNX Runtime's files into the build, and list all files in the service worker. */
function site(): Plugin {
  let out = "dist";
  return {
    name: "site",
    apply: "build",
    configResolved: (config) => void (out = config.build.outDir),
    closeBundle() {
      for (const name of [...WASM, ...WEBGPU]) cpSync(join(ORT, name), join(out, "ort", name));
      writeFileSync(join(out, "licenses.txt"), licensesOf(shipped()));
      const paths = filesIn(out).filter((path) => !path.endsWith("sw.js"));
      const hash = createHash("sha256");
      for (const path of paths) hash.update(path).update(readFileSync(path));
      const names = paths.map((path) => relative(out, path).split(sep).join("/"));
      const cached = ["./", ...names.filter((name) => !WEBGPU.includes(name.replace("ort/", "")))];
      const worker = readFileSync("src/sw.js", "utf8")
        .replace("__VERSION__", hash.digest("hex").slice(0, 12))
        .replace("[/* FILES */]", JSON.stringify(cached));
      writeFileSync(join(out, "sw.js"), worker);
      const size = (some: string[]) => (some.reduce((sum, path) => sum + statSync(path).size, 0) / 1e6).toFixed(1);
      const gpu = paths.filter((path) => WEBGPU.some((name) => path.endsWith(`${sep}${name}`)));
      console.log(`site: ${size(paths)} MB, of which ${size(gpu)} MB are for WebGPU only`);
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [site()],
  build: { target: "es2022", assetsInlineLimit: 0 },
  worker: { format: "es" },
  test: { include: ["tests/unit/**/*.test.ts"], testTimeout: 60_000 },
} as Parameters<typeof defineConfig>[0]);
