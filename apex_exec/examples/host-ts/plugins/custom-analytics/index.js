/** The specification's first plugin: a chart for a dashboard, and the data that it draws. */
export default {
  id: "custom-analytics",
  version: "1.0.0",
  permissions: ["data:read", "ui:render"],

  hooks: {
    onDashboardLoad: async (context) => {
      return {
        customWidgets: [
          {
            id: "chart",
            component: "Chart",
            props: { dashboard: context.dashboardId },
          },
        ],
      };
    },

    onDataFetch: async (context) => {
      return { transformedData: { query: context.query, filters: Object.keys(context.filters) } };
    },
  },
};
