"""A FastAPI shop with SQLAlchemy: order, lines and event are one transaction.

uvicorn app:app --port 8000
"""

import os
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import DateTime, ForeignKey, Numeric, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from relay.outbox import Event, EventTypes
from relay.outbox.sqlalchemy import append

URL = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
engine = create_engine(URL)
app = FastAPI()
# The shop's own event types; another name is refused here, and not lost later.
TYPES = EventTypes.of("order.placed")


class Base(DeclarativeBase):
    """The shop's tables."""


class Order(Base):
    """An order; the confirmation consumer moves `status` on."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    total: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    status: Mapped[str] = mapped_column(default="submitted", server_default="submitted")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    lines: Mapped[list["OrderLine"]] = relationship()


class OrderLine(Base):
    """One line."""

    __tablename__ = "order_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    sku: Mapped[str]
    quantity: Mapped[int]


class NewLine(BaseModel):
    """A line as it is ordered; the price is a string of decimal digits."""

    sku: str
    quantity: int
    price: Decimal


class NewOrder(BaseModel):
    """An order as it is submitted."""

    number: str
    lines: list[NewLine]


def session() -> Iterator[Session]:
    """Open a transaction for the request; what it raises rolls back order and event."""
    with Session(engine) as opened, opened.begin():
        yield opened


@app.post("/orders", status_code=201)
def place(new: NewOrder, db: Annotated[Session, Depends(session)]) -> dict[str, Any]:
    """Place an order."""
    total = sum((line.price * line.quantity for line in new.lines), Decimal(0))
    lines = [OrderLine(sku=line.sku, quantity=line.quantity) for line in new.lines]
    order = Order(number=new.number, total=total, lines=lines)
    db.add(order)
    db.flush()  # the order has its id now
    payload = {
        "order_id": order.id,
        "number": order.number,
        "total": str(order.total),
        "lines": [{"sku": line.sku, "quantity": line.quantity} for line in lines],
    }
    append(db, Event("order.placed", str(order.id), payload), event_types=TYPES)
    return {"id": order.id, "status": order.status}
