"""The shop's own tables: shop_order and shop_orderline."""

from django.db import models


class Order(models.Model):
    """An order; the confirmation consumer moves `status` on."""

    number = models.CharField(max_length=32, unique=True)
    email = models.EmailField()
    total = models.DecimalField(max_digits=12, decimal_places=2)
    status = models.CharField(max_length=20, default="submitted")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        """Return the number that the customer knows."""
        return self.number


class OrderLine(models.Model):
    """One line."""

    order = models.ForeignKey(Order, related_name="lines", on_delete=models.CASCADE)
    sku = models.CharField(max_length=32)
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=12, decimal_places=2)

    def __str__(self) -> str:
        """Return what was ordered."""
        return f"{self.quantity} x {self.sku}"
