/**
 * Drives one client of a host in JavaScript: `node host_client.mjs CLIENT.js ENDPOINT USER TOTAL IN_FLIGHT`. Prints one line of JSON:
 * calls a second, the p50 in µs, CPU of this process per call in µs.
 */

const [modulePath, endpoint, user, total, inFlight] = process.argv.slice(2);
const { ApexClient } = await import(modulePath);
const client = new ApexClient(endpoint);
const context = { text: "x".repeat(60), n: 1 };
const plugins = ["echo-one", "echo-two"];
const latencies = [];

async function rounds(calls, width) {
  let sent = 0;
  const one = async () => {
    while (sent < calls) {
      const plugin = plugins[sent++ % plugins.length];
      const begun = performance.now();
      await client.invoke(plugin, "onActionExecute", user, { action: "echo", context });
      latencies.push((performance.now() - begun) * 1000);
    }
  };
  await Promise.all(Array.from({ length: width }, one));
}

await rounds(2000, Number(inFlight));
latencies.length = 0;
const before = process.cpuUsage();
const begun = performance.now();
await rounds(Number(total), Number(inFlight));
const seconds = (performance.now() - begun) / 1000;
const used = process.cpuUsage(before);
latencies.sort((a, b) => a - b);
console.log(JSON.stringify({
  rate: Number(total) / seconds, p50: latencies[Math.floor(latencies.length / 2)], cpu: (used.user + used.system) / Number(total),
}));
client.close();
