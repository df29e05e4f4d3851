// What browsers and Node have and plugins do not, and what to do instead.
//
// The names stay undefined: bundles ask `typeof process`, `globalThis.process?.env` and `"process" in globalThis`, and
// shims assign them. A getter would answer `typeof` with an exception. So the engine throws its own ReferenceError, and
// where that error is shown to the author, `internals.explain(error)` adds the sentence of the table below.
(function (host, internals) {
  "use strict";
  const { asString, exec, hasOwn } = internals.base;

  internals.makers.absent = () => {
    const CONSTANTS = "let the bundler replace it: esbuild --define:process.env.NODE_ENV='\"production\"'";
    const FETCH = "use fetch, which needs network:fetch and the host in the manifest's network.allow";
    const BYTES = "use Uint8Array: fromBase64, toBase64, fromHex and toHex are there, and TextEncoder for text";
    const BUNDLE = "write `import`, and bundle CommonJS packages: esbuild --bundle --format=esm";
    const SERVER = "plugins run in a server: return data, and render with plugin.api.renderWidget";
    const NO_THREADS = "a plugin has one thread; work that takes long is split over several calls";
    const WHOLE = "bodies are read whole: text(), json(), bytes() or arrayBuffer()";
    const HINTS = {
      __proto__: null,
      process: CONSTANTS, global: "write globalThis", Buffer: BYTES, Blob: BYTES, File: BYTES, FileReader: BYTES,
      require: BUNDLE, module: BUNDLE, exports: BUNDLE, __dirname: BUNDLE, __filename: BUNDLE,
      Intl: "bring a library that formats without it (date-fns, big.js), and write dates with toISOString",
      Temporal: "use Date, whose time zone is UTC here, or bundle a library",
      WebAssembly: "bundle a package's JavaScript build: plugins run no machine code",
      XMLHttpRequest: FETCH, WebSocket: FETCH, EventSource: FETCH,
      FormData: "send URLSearchParams or JSON.stringify(…) as the body",
      ReadableStream: WHOLE, WritableStream: WHOLE, TransformStream: WHOLE, CompressionStream: WHOLE,
      DecompressionStream: WHOLE,
      Worker: NO_THREADS, MessageChannel: NO_THREADS, BroadcastChannel: NO_THREADS,
      setImmediate: "use setTimeout(f, 0) or queueMicrotask(f)", clearImmediate: "use setTimeout and clearTimeout",
      requestAnimationFrame: "use setTimeout",
      window: SERVER, document: SERVER, navigator: SERVER, location: SERVER, self: "write globalThis",
      localStorage: "keep data by plugin.api.storage, or in the platform's tables by plugin.api.insert",
      sessionStorage: "keep data by plugin.api.storage, or in the platform's tables by plugin.api.insert",
      indexedDB: "keep data by plugin.api.storage, or in the platform's tables by plugin.api.insert",
    };

    // What to do about `error` if it names one of those globals, as the end of its message; "" for every other error.
    // Never throws, and calls nothing that the plugin can replace but the error's own getters.
    const explain = error => {
      try {
        const found = exec(/^'?([A-Za-z_]+)'? is not defined$/, asString(error.message));
        if (found === null || !hasOwn(HINTS, found[1])) return "";
        return " in plugins: " + HINTS[found[1]];
      } catch {
        return "";
      }
    };
    return { explain };
  };
})
