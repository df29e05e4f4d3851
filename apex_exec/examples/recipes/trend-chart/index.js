// Visits a day as a line, with a moving average. No library and no build: this file is loaded as it stands.

const SQL =
  "SELECT day, CAST(sum(count) AS double precision) AS visits FROM visits GROUP BY day ORDER BY day DESC LIMIT 60";

/** The mean of each value and up to `days - 1` before it. */
function movingAverage(values, days) {
  return values.map((_, at) => {
    const part = values.slice(Math.max(0, at - days + 1), at + 1);
    return Math.round((10 * part.reduce((sum, value) => sum + value, 0)) / part.length) / 10;
  });
}

/** @type {import("@apex-exec/plugin").Plugin} */
export default {
  id: "trend-chart",
  version: "0.1.0",
  permissions: ["data:read", "ui:render"],

  hooks: {
    onDashboardLoad: async (context) => {
      const rows = (await context.api.query(SQL)).reverse();
      if (rows.length === 0) return { customWidgets: [] };
      const visits = rows.map((row) => Number(row.visits));
      const days = context.settings.days;
      return {
        customWidgets: [
          {
            id: "visits",
            component: "LineChart",
            props: {
              labels: rows.map((row) => row.day),
              series: [
                { name: "Visits", points: visits },
                { name: `Average of ${days} days`, points: movingAverage(visits, days) },
              ],
            },
          },
        ],
      };
    },
  },
};
