// The API for people, drawn by Swagger UI.
"use strict";

SwaggerUIBundle({ url: "/api/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
