/**
 * The orders of one user, for a widget.
 *
 * @param {Record<string, unknown>[]} orders
 * @param {Record<string, unknown> | undefined} totals
 */
export function overview(orders, totals) {
  return {
    count: Number(totals?.n ?? 0),
    total: Number(totals?.total ?? 0),
    largest: orders.reduce((most, order) => Math.max(most, Number(order.amount)), 0),
  };
}
