{% include cookiecutter.task ~ '/data.py' %}
