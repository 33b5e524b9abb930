"""A pipeline that knows nothing of dltobs: what observes it is in the environment, see compose.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dlt

if TYPE_CHECKING:
    from collections.abc import Iterator


@dlt.resource(primary_key="id", write_disposition="merge")
def orders(api_key: str = dlt.secrets.value) -> Iterator[list[dict[str, Any]]]:
    """Three pages of orders, each with its items; the key would open a shop's API."""
    if not api_key:
        message = "the shop asks for a key"
        raise PermissionError(message)
    for page in range(3):
        yield [{"id": 10 * page + number, "items": [{"sku": f"sku-{number}"}]} for number in range(10)]


@dlt.resource(primary_key="id", write_disposition="merge")
def customers() -> Iterator[dict[str, Any]]:
    """Five customers."""
    for number in range(5):
        yield {"id": number, "name": f"customer {number}"}


def main() -> None:
    """Load both into DuckDB."""
    pipeline = dlt.pipeline("shop", destination="duckdb", dataset_name="shop_data")
    print(pipeline.run([orders(), customers()]))


if __name__ == "__main__":
    main()
