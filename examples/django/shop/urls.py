"""POST /orders places an order; GET /orders/NUMBER says how it stands."""

import json
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from shop.models import Order
from shop.orders import place_order


@csrf_exempt
def orders(request: HttpRequest) -> JsonResponse:
    """Place an order: {"number", "email", "lines": [{"sku", "quantity", "price"}]}."""
    order = place_order(**json.loads(request.body))
    return JsonResponse(
        {"id": order.pk, "number": order.number, "status": order.status}, status=201
    )


def order(_request: HttpRequest, number: str) -> JsonResponse:
    """Say how an order stands."""
    return JsonResponse(_as_json(Order.objects.get(number=number)))


def _as_json(found: Order) -> dict[str, Any]:
    return {"id": found.pk, "number": found.number, "status": found.status}


urlpatterns = [path("orders", orders), path("orders/<str:number>", order)]
