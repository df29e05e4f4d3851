/** The best sellers as a table. zod holds every row to its type before it is drawn. */

import type { HookContext, Plugin, Widget } from "@apex-exec/plugin";
import { z } from "zod";

const SQL =
  "SELECT product, CAST(sum(amount) AS double precision) AS total, count(*) AS sold " +
  "FROM sales GROUP BY product ORDER BY sum(amount) DESC LIMIT 10";
const Row = z.object({
  product: z.string().min(1).max(100),
  total: z.coerce.number().nonnegative(),
  sold: z.number().int().nonnegative(),
});

export default {
  id: "sales-widget",
  version: "0.1.0",
  permissions: ["data:read", "ui:render"],

  hooks: {
    /** One table; without sales, one sentence. */
    async onDashboardLoad(context: HookContext<"onDashboardLoad">) {
      const rows = await context.api.query(SQL);
      const good = rows.map((row) => Row.safeParse(row)).flatMap((read) => (read.success ? [read.data] : []));
      const unread = rows.length - good.length;
      if (unread > 0) context.log.warn("%d rows are not as expected", unread);
      const widget: Widget =
        good.length > 0
          ? { id: "best-sellers", component: "Table", props: { rows: good, unread } }
          : { id: "best-sellers", component: "Text", props: { text: "Nothing has been sold yet." } };
      return { customWidgets: [widget] };
    },
  },
} satisfies Plugin;
