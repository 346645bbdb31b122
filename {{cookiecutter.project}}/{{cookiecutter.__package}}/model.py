{% include cookiecutter.__model %}
