import { writeFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";
import { licensesOf } from "./licenses";

const OUT = "../sar2optical/viewer/static";

/** Write the licences of the packages that the bundle contains. */
function bundled(): Plugin {
  const packages = new Set<string>();
  return {
    name: "licenses",
    generateBundle(_, bundle) {
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== "chunk") continue;
        for (const [id, { renderedLength }] of Object.entries(chunk.modules)) {
          const found = id.match(/^.*\/(node_modules\/(?:.*\/node_modules\/)?(?:@[^/]+\/)?[^/]+)\//);
          if (found && (renderedLength || id.endsWith(".css"))) packages.add(found[1]);
        }
      }
    },
    closeBundle() {
      writeFileSync(`${OUT}/licenses.txt`, licensesOf([...packages].sort()));
    },
  };
}

/** The page of `sar2optical view`: one script and one style sheet, committed in the Python package. */
export default defineConfig({
  root: "viewer",
  base: "./",
  plugins: [bundled()],
  build: {
    target: "es2022",
    outDir: `../${OUT}`,
    emptyOutDir: false, // page.html, the template of --html, is there too
    modulePreload: false,
    chunkSizeWarningLimit: 2000,
    rollupOptions: {
      output: {
        inlineDynamicImports: true,
        entryFileNames: "viewer.js",
        assetFileNames: "viewer[extname]",
      },
    },
  },
});
