import { overview } from "./lib/overview.js";

/** @type {import("@apex-exec/plugin").Plugin} */
export default {
  id: "order-overview",
  version: "1.0.0",
  permissions: ["data:read", "events:emit"],

  hooks: {
    // Answers the action "orders" and leaves every other to the next plugin.
    async onActionExecute({ action, userId, log }) {
      if (action !== "orders") return { result: null, metadata: {} };
      // Both queries are under way at once. Each sees the caller's own rows only.
      const [orders, totals] = await Promise.all([
        plugin.api.query("SELECT id, amount FROM orders ORDER BY id LIMIT 20", []),
        plugin.api.query("SELECT count(*) AS n, sum(amount) AS total FROM orders", []),
      ]);
      const result = overview(orders, totals[0]);
      await plugin.api.emit("orders-shown", { payload: { count: result.count } });
      log.info("%d orders of %s", result.count, userId);
      return { result, metadata: { shown: orders.length } };
    },
  },
};
