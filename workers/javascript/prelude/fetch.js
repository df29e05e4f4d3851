// Headers, Request, Response and fetch (https://fetch.spec.whatwg.org), without streams: a body is there as a whole.
//
// fetch asks the platform as plugin.api.fetch does, with the same permission, limits and errors (`error.code`), and what
// it resolves with is a Response. The gateway follows redirects and does not say where they led.
(function (host, internals) {
  "use strict";
  const { tag, define, asString, uncurry, apply, iterator, keys, exec, indexOf, slice, toLowerCase, toUpperCase, toWellFormed, charCodeAt,
    join, sort, then, parse, stringify, isView, isBuffer, bytesOf, itemsOf, bufferOf, mapGet, mapSet, mapHas, mapDelete,
    mapEach, platformObjects, Map, Promise, TypeError, RangeError, Uint8Array } = internals.base;
  const { text: texts, url: urls, events } = internals.parts;

  internals.makers.fetch = () => {
    // ------------------------------------------------------------ Headers
    const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, NOT_A_VALUE = /[\x00\n\r\u0100-\uffff]/;
    const BLANKS = /^[\t\n\r ]*([^]*?)[\t\n\r ]*$/;

    const nameOf = given => {
      const name = asString(given);
      if (exec(TOKEN, name) === null) throw new TypeError(stringify(slice(name, 0, 80)) + " is not a valid name of a header");
      return toLowerCase(name);
    };
    const valueOf = (name, given) => {
      const value = exec(BLANKS, asString(given))[1];
      if (exec(NOT_A_VALUE, value) !== null) {
        throw new TypeError("the header " + name + " has a value of several lines, or with characters beyond Latin-1");
      }
      return value;
    };
    const step = uncurry(function* (pairs, kind) { // 0: pairs, 1: names, 2: values
      for (let i = 0; i < pairs().length; i++) {
        const { name, value } = pairs()[i];
        yield kind === 0 ? [name, value] : kind === 1 ? name : value;
      }
    });
    let plainHeaders, hasHeader, setHeader;

    class Headers {
      #values = new Map(); // name in lower case → the list of its values

      static {
        plainHeaders = headers => { // as plugin.api.fetch takes them
          const made = { __proto__: null };
          mapEach(headers.#values, (values, name) => { made[name] = join(values, ", ") });
          return made;
        };
        hasHeader = (headers, name) => mapHas(headers.#values, name);
        setHeader = (headers, name, value) => mapSet(headers.#values, name, [value]); // both unchecked
        platformObjects[platformObjects.length] = value => #values in value;
      }

      constructor(init = undefined) {
        if (init === undefined) return;
        if (init === null || typeof init !== "object" && typeof init !== "function") {
          throw new TypeError("Headers takes an object, a list of pairs or Headers");
        }
        if (#values in init) {
          mapEach(init.#values, (values, name) => { for (let i = 0; i < values.length; i++) this.append(name, values[i]) });
        } else if (init[iterator] !== undefined && init[iterator] !== null) {
          const pairs = itemsOf(init);
          for (let i = 0; i < pairs.length; i++) {
            const pair = itemsOf(pairs[i]);
            if (pair.length !== 2) throw new TypeError("each pair of Headers has a name and a value");
            this.append(pair[0], pair[1]);
          }
        } else {
          const names = keys(init);
          for (let i = 0; i < names.length; i++) this.append(names[i], init[names[i]]);
        }
      }

      append(name, value) {
        name = nameOf(name);
        value = valueOf(name, value);
        const old = mapGet(this.#values, name) ?? [], list = [];
        for (let i = 0; i < old.length; i++) list[i] = old[i];
        list[list.length] = value;
        mapSet(this.#values, name, list);
      }
      set(name, value) {
        name = nameOf(name);
        mapSet(this.#values, name, [valueOf(name, value)]);
      }
      delete(name) { mapDelete(this.#values, nameOf(name)) }
      has(name) { return mapHas(this.#values, nameOf(name)) }
      get(name) {
        const values = mapGet(this.#values, nameOf(name));
        return values === undefined ? null : join(values, ", ");
      }
      getSetCookie() {
        const values = mapGet(this.#values, "set-cookie") ?? [], list = [];
        for (let i = 0; i < values.length; i++) list[i] = values[i];
        return list;
      }

      // Sorted by name; cookies one by one, all others joined.
      #pairs() {
        const pairs = [];
        mapEach(this.#values, (values, name) => {
          const isCookie = name === "set-cookie";
          for (let i = 0; i < (isCookie ? values.length : 1); i++) {
            pairs[pairs.length] = { name, value: isCookie ? values[i] : join(values, ", ") };
          }
        });
        return sort(pairs, (a, b) => a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
      }
      forEach(callback, self = undefined) {
        const pairs = this.#pairs();
        for (let i = 0; i < pairs.length; i++) apply(callback, self, [pairs[i].value, pairs[i].name, this]);
      }
      toJSON() { return plainHeaders(this) } // not the standard's: plugin.api.fetch takes Headers, too
      entries() { return step(undefined, () => this.#pairs(), 0) }
      keys() { return step(undefined, () => this.#pairs(), 1) }
      values() { return step(undefined, () => this.#pairs(), 2) }
    }
    define(Headers.prototype, iterator, Headers.prototype.entries);

    // ------------------------------------------------------------ bodies
    const NO_STREAMS = "a body is text, bytes or URLSearchParams: plugins have no streams, Blob or FormData";

    // {data: string, Uint8Array or null, type: what Content-Type says of it}
    const bodyOf = given => {
      if (given === undefined || given === null) return { data: null, type: "" };
      if (typeof given === "object") {
        if (isView(given) || isBuffer(given)) {
          return { data: new Uint8Array(bytesOf(given)), type: "" };
        }
        if (urls().isParams(given)) {
          return { data: urls().paramsText(given), type: "application/x-www-form-urlencoded;charset=UTF-8" };
        }
        const text = asString(given);
        if (text === "[object Object]") throw new TypeError(NO_STREAMS + "; an object is sent as JSON.stringify(object)");
        return { data: text, type: "text/plain;charset=UTF-8" };
      }
      return { data: toWellFormed(asString(given)), type: "text/plain;charset=UTF-8" };
    };
    const attempt = act => new Promise(resolve => resolve(act()));

    let dataOf, use, rawOf, setRaw;

    class Body {
      #data; #isUsed = false;
      #raw = null; // the bytes of a text that came in another charset than UTF-8

      static {
        dataOf = body => {
          if (body.#isUsed) throw new TypeError("the body was read already: call clone() before reading it");
          return body.#data;
        };
        use = body => {
          const data = dataOf(body);
          body.#isUsed = data !== null;
          return data;
        };
        rawOf = body => body.#raw;
        setRaw = (body, raw) => { body.#raw = raw };
        platformObjects[platformObjects.length] = value => #data in value;
      }

      constructor(data) { this.#data = data }

      get body() { return null } // there are no streams: null sends libraries to text() and the others
      get bodyUsed() { return this.#isUsed }
      text() { return attempt(() => bodyText(use(this))) }
      json() { return attempt(() => parse(bodyText(use(this)))) }
      bytes() { return attempt(() => this.#bytes()) }
      arrayBuffer() { return attempt(() => bufferOf(this.#bytes())) }
      #bytes() {
        const data = use(this);
        return bodyBytes(this.#raw ?? data);
      }
    }
    const bodyText = data => {
      const text = data === null ? "" : typeof data === "string" ? data : texts().decode(data, false);
      return charCodeAt(text, 0) === 0xfeff ? slice(text, 1) : text;
    };
    const bodyBytes = data => data === null ? new Uint8Array(0)
      : typeof data === "string" ? texts().encode(data) : new Uint8Array(data);

    // ------------------------------------------------------------ Request
    const UPPER = { __proto__: null, DELETE: true, GET: true, HEAD: true, OPTIONS: true, POST: true, PUT: true };
    const METHODS_REFUSED = { __proto__: null, CONNECT: true, TRACE: true, TRACK: true };
    let asked;

    class Request extends Body {
      #url; #method = "GET"; #headers; #given = null; #signal = null;

      static {
        asked = request => ({ url: request.#url, method: request.#method, headers: request.#headers,
          signal: request.#given });
      }

      constructor(input, init = undefined) {
        const old = input !== null && typeof input === "object" && #headers in input ? input : null;
        let method = old === null ? "GET" : old.#method;
        if (init?.method !== undefined) {
          method = asString(init.method);
          const upper = toUpperCase(method);
          if (exec(TOKEN, method) === null || METHODS_REFUSED[upper]) {
            throw new TypeError(stringify(slice(method, 0, 40)) + " is not a valid method of a request");
          }
          if (UPPER[upper]) method = upper;
        }
        const isNew = init?.body !== undefined && init.body !== null;
        const { data, type } = isNew ? bodyOf(init.body) : { data: old === null ? null : dataOf(old), type: "" };
        if (data !== null && (method === "GET" || method === "HEAD")) {
          throw new TypeError("a request by " + method + " has no body");
        }
        const { URL } = urls(), url = old === null ? new URL(input) : null;
        if (url !== null && (urls().hasUser(url))) {
          throw new TypeError("no user name or password in the URL of a request: send a header");
        }
        if (init?.redirect !== undefined && init.redirect !== "follow") {
          throw new TypeError("redirects are followed, each checked as a request is: redirect: " + stringify(asString(init.redirect)) + " is not there");
        }
        const signal = init?.signal === undefined ? old === null ? null : old.#given : init.signal;
        if (signal !== null && !events().isSignal(signal)) throw new TypeError("signal is not an AbortSignal");
        super(data);
        if (old !== null && !isNew) use(old);
        this.#url = url === null ? old.#url : urls().hrefOf(url);
        this.#method = method;
        this.#headers = new Headers(init?.headers ?? (old === null ? undefined : old.#headers));
        if (type !== "" && !hasHeader(this.#headers, "content-type")) setHeader(this.#headers, "content-type", type);
        this.#given = signal;
      }

      get url() { return this.#url }
      get method() { return this.#method }
      get headers() { return this.#headers }
      get redirect() { return "follow" }
      get signal() { return this.#signal ??= events().following(this.#given) }
      clone() {
        const { URL } = urls();
        return new Request(new URL(this.#url), { __proto__: null, method: this.#method, headers: this.#headers,
          body: dataOf(this), signal: this.#given });
      }
    }

    // ------------------------------------------------------------ Response
    const BODILESS = { __proto__: null, 101: true, 103: true, 204: true, 205: true, 304: true };
    let fetched, setStatus;

    class Response extends Body {
      #status; #statusText; #headers; #url = ""; #type = "default";

      static {
        // What the gateway answered: {status, headers: {name: value}, body: text or bytes}.
        fetched = (reply, url) => {
          const response = new Response(reply.body);
          response.#status = reply.status;
          response.#headers = new Headers();
          const names = keys(reply.headers);
          for (let i = 0; i < names.length; i++) setHeader(response.#headers, names[i], reply.headers[names[i]]);
          response.#url = url;
          response.#type = "basic";
          if (typeof reply.body === "string" && typeof reply.raw !== "string") setRaw(response, reply.raw ?? null);
          return response;
        };
        setStatus = (response, status, type) => {
          response.#status = status;
          response.#type = type;
          return response;
        };
      }

      constructor(body = null, init = undefined) {
        const status = init?.status === undefined ? 200 : +init.status;
        if (!(status >= 200 && status <= 599)) throw new RangeError("the status of a Response is from 200 to 599");
        const { data, type } = bodyOf(body);
        if (data !== null && BODILESS[status]) throw new TypeError("a Response with status " + status + " has no body");
        super(data);
        this.#status = status;
        this.#statusText = init?.statusText === undefined ? "" : asString(init.statusText);
        this.#headers = new Headers(init?.headers);
        if (type !== "" && !hasHeader(this.#headers, "content-type")) setHeader(this.#headers, "content-type", type);
      }

      static error() { return setStatus(new Response(), 0, "error") }

      static json(data, init = undefined) {
        const text = stringify(data);
        if (text === undefined) throw new TypeError("the value has no JSON");
        const response = new Response(text, init);
        if (!hasHeader(new Headers(init?.headers), "content-type")) {
          setHeader(response.#headers, "content-type", "application/json");
        }
        return response;
      }

      static redirect(url, status = 302) {
        if (status !== 301 && status !== 302 && status !== 303 && status !== 307 && status !== 308) {
          throw new RangeError("the status of a redirect is 301, 302, 303, 307 or 308");
        }
        const { URL } = urls(), response = setStatus(new Response(), status, "default");
        setHeader(response.#headers, "location", urls().hrefOf(new URL(url)));
        return response;
      }

      get status() { return this.#status }
      get statusText() { return this.#statusText }
      get ok() { return this.#status >= 200 && this.#status <= 299 }
      get headers() { return this.#headers }
      get url() { return this.#url }
      get redirected() { return false }
      get type() { return this.#type }
      clone() {
        const made = new Response(dataOf(this));
        made.#status = this.#status;
        made.#statusText = this.#statusText;
        made.#headers = new Headers(this.#headers);
        made.#url = this.#url;
        made.#type = this.#type;
        setRaw(made, rawOf(this));
        return made;
      }
    }

    // ------------------------------------------------------------ fetch
    const { fetch } = {
      fetch(input, init = undefined) {
        return new Promise((resolve, reject) => { // what is thrown in here rejects
          const request = new Request(input, init), { url, method, headers, signal } = asked(request);
          if (slice(url, 0, 7) !== "http://" && slice(url, 0, 8) !== "https://") {
            throw new TypeError("fetch takes URLs that begin with http:// or https://, not " + stringify(slice(url, 0, 80)));
          }
          if (signal !== null) events().throwIfAborted(signal);
          let end; // the call, at the gateway too
          const stop = signal === null ? null : events().follow(signal, reason => { reject(reason); end?.() });
          const hash = indexOf(url, "#"), bare = hash < 0 ? url : slice(url, 0, hash);
          then(internals.ask("fetch", { url: bare, method, headers: plainHeaders(headers), body: use(request) }, act => { end = act }), reply => {
            stop?.();
            resolve(fetched(reply, bare));
          }, error => {
            stop?.();
            reject(error);
          });
        });
      },
    };

    tag(Headers, "Headers");
    tag(Request, "Request");
    tag(Response, "Response");
    return { Headers, Request, Response, fetch, plainHeaders };
  };
})
